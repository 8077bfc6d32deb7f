"""Statistics over many samples: Frechet distances, means with intervals, shares with intervals. No jax."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from its_jax.errors import UserError

NORMAL_95 = 1.96  # standard deviations around the mean that contain 95 % of a normal distribution


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A normal distribution of features: mean `[d]` and covariance `[d, d]` in float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> "Gaussian":
        """Fits the distribution to features `[n, d]`. UserError: n is below 2, or a value is not finite."""
        features = np.asarray(features, np.float64)
        check_sample_count(len(features))
        if not np.isfinite(features).all():
            raise UserError("a Frechet distance of features that are not finite")
        return cls(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def check_sample_count(samples: int) -> None:
    """Raises UserError if the number of samples is too small for a Frechet distance."""
    if samples < 2:
        raise UserError(f"a Frechet distance of {samples} samples: there must be 2 or more on either side")


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Computes the squared Frechet distance of two normal distributions (Dowson and Landau 1982), as in FID and FAD.

    It is |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)). The trace of the root equals that of (A^(1/2) B A^(1/2))^(1/2),
    which is symmetric, so that singular covariances, of few samples, need no offset and give no complex numbers.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"a Frechet distance of features of {len(a.mean)} and {len(b.mean)} numbers: they must be equal"
        )
    root = _root(a.covariance)
    between = np.linalg.eigvalsh(root @ b.covariance @ root)
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.maximum(between, 0)).sum()
    return float(max(0.0, np.square(a.mean - b.mean).sum() + spread))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Computes the mean and half the width of its 95 % interval (Student's t), which is nan below two values."""
    from scipy import special  # It is slow to import, and is needed only here.

    array = np.asarray(values, np.float64)
    n = len(array)
    if not n:
        return float("nan"), float("nan")
    half_width = special.stdtrit(n - 1, 0.975) * array.std(ddof=1) / n**0.5 if n > 1 else float("nan")
    return float(array.mean()), float(half_width)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Computes the 95 % interval of a share, which stays within [0, 1] (Wilson 1927). For n = 0 it is [0, 1]."""
    if not n:
        return 0.0, 1.0
    z2, share = NORMAL_95**2, successes / n
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half_width = NORMAL_95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, float(center - half_width)), min(1.0, float(center + half_width))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes the cosines of the angles between vectors `[..., d]`, row by row, in float64."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
