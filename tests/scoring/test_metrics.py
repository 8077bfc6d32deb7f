"""Frechet distance against scipy's root, where that is defined, and against closed forms, where it is not."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from its_jax.errors import UserError
from its_jax.scoring import metrics


def features(n, d, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + shift


def by_scipy(a, b):
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    return np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root.real)


@pytest.mark.parametrize("n, d", [(200, 3), (500, 20), (40, 30)])
def test_frechet_distance_equals_scipys(n, d):
    a, b = metrics.Gaussian.fit(features(n, d, 0)), metrics.Gaussian.fit(features(n + 7, d, 1, shift=0.5))
    assert metrics.frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-6)
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a), rel=1e-9)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * np.trace(a.covariance))


def test_frechet_distance_of_few_samples_with_many_features_is_exact():
    """The features lie on one line, where the root is the product of the deviations."""
    direction = np.random.default_rng(0).normal(size=512)
    direction /= np.linalg.norm(direction)
    a, b = (metrics.Gaussian.fit(np.outer([-s, s], direction)) for s in (1.0, 3.0))
    expected = (np.sqrt(18) - np.sqrt(2)) ** 2
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "a, b, words",
    [
        (np.ones((1, 3)), np.ones((4, 3)), "2 or more"),
        (np.ones((4, 3)), np.ones((4, 2)), "must be equal"),
        (np.full((4, 3), np.nan), np.ones((4, 3)), "not finite"),
    ],
)
def test_features_without_a_distance_are_refused(a, b, words):
    with pytest.raises(UserError, match=words):
        metrics.frechet_distance(metrics.Gaussian.fit(a), metrics.Gaussian.fit(b))


def test_the_interval_of_a_mean_follows_students_t():
    mean, half_width = metrics.mean_and_half_width([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5 and half_width == pytest.approx(3.1824 * np.std([1, 2, 3, 4], ddof=1) / 2, rel=1e-4)
    assert metrics.mean_and_half_width([5.0])[0] == 5 and np.isnan(metrics.mean_and_half_width([5.0])[1])
    assert np.isnan(metrics.mean_and_half_width([])[0])


def test_cosines_are_computed_row_by_row():
    np.testing.assert_allclose(metrics.cosines([[1, 0], [1, 1]], [[0, 2], [3, 3]]), [0, 1])


class Identity(torch.nn.Module):
    """A feature network whose features are its input, so that torchmetrics' FID compares the given numbers."""

    num_features = 12

    def forward(self, x):
        return x.reshape(len(x), -1)


@pytest.mark.parametrize("n", [5, 400])  # fewer and more than there are features
def test_frechet_distance_equals_that_of_torchmetrics(n):
    a, b = features(n, 12, 0), features(n + 3, 12, 1, shift=0.5)
    fid = FrechetInceptionDistance(feature=Identity(), normalize=True, input_img_size=(1, 3, 4)).set_dtype(
        torch.float64
    )
    for values, real in ((a, True), (b, False)):
        fid.inception.forward = lambda x, values=values: torch.from_numpy(values)
        fid.update(torch.zeros(len(values), 1, 3, 4, dtype=torch.float64), real=real)
    found = metrics.frechet_distance(metrics.Gaussian.fit(a), metrics.Gaussian.fit(b))
    assert found == pytest.approx(float(fid.compute()), rel=1e-6)
