"""Figures over many samples: Frechet distance, means with intervals. No jax."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from its_jax.errors import UserError

NORMAL_95 = 1.96  # standard deviations within which 95 % of a normal distribution lie


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A normal distribution fitted to features: mean `[d]` and covariance `[d, d]` in float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Gaussian":
        """Of features `[n, d]`. UserError: fewer than two of them, or one that is not finite."""
        features = np.asarray(features, np.float64)
        check_enough(len(features))
        if not np.isfinite(features).all():
            raise UserError("a Frechet distance of features that are not finite")
        return cls(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def check_enough(samples: int) -> None:
    """UserError: so many are too few for a Frechet distance."""
    if samples < 2:
        raise UserError(f"a Frechet distance of {samples} samples: there must be 2 or more on either side")


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet distance of two normal distributions (Dowson and Landau 1982), as FID and FAD have it.

    |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)); the trace of the root is that of (A^(1/2) B A^(1/2))^(1/2), which is
    symmetric, so that covariances of few samples, which are singular, need no offset and give no complex numbers.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"a Frechet distance of features of {len(a.mean)} and {len(b.mean)} numbers: they must be equal"
        )
    root = _root(a.covariance)
    between = np.linalg.eigvalsh(root @ b.covariance @ root)
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.maximum(between, 0)).sum()
    return float(max(0.0, np.square(a.mean - b.mean).sum() + spread))


def _root(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and how far its 95 % interval reaches to either side, by Student's t; nan for less than two."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return float("nan"), float("nan")
    n = len(values)
    reach = special.stdtrit(n - 1, 0.975) * values.std(ddof=1) / n**0.5 if n > 1 else float("nan")
    return float(values.mean()), float(reach)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, which stays within 0 and 1 (Wilson 1927); of nothing, all of it."""
    if not n:
        return 0.0, 1.0
    z2, share = NORMAL_95**2, successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = NORMAL_95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, float(centre - reach)), min(1.0, float(centre + reach))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of vectors `[..., d]`, row by row, in float64."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
