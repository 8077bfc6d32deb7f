"""Windows along time: their positions, and the averages of predictions over them."""

import jax.numpy as jnp
import numpy as np
import pytest

from its_jax.diffusion.windows import Windows

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 50, 4)), jnp.float32)


@pytest.mark.parametrize(("total", "size"), [(64, 64), (65, 64), (100, 64), (128, 64), (256, 64), (257, 64), (7, 2)])
@pytest.mark.parametrize("wrap", [False, True])
def test_windows_cover_all_columns_and_overlap_by_half(total, size, wrap):
    windows = Windows.cover(total, size, wrap)
    if total == size and not wrap:
        assert windows is None
        return
    covered = np.zeros(total, int)
    for start in windows.starts:
        np.add.at(covered, (start + np.arange(size)) % total, 1)
    gaps = np.diff([*windows.starts, windows.starts[0] + total] if wrap else windows.starts)
    assert max(gaps) <= size / 2 and min(gaps) > 0
    if wrap:
        assert covered.min() >= 2
    else:
        assert windows.starts[0] == 0 and windows.starts[-1] == total - size
        assert covered[size // 2 : -size // 2].min() >= 2


def average_without_caches(windows):
    """Returns `windows.average` for predictions without caches."""
    return lambda predict, x: windows.average(lambda x, cache: (predict(x), cache), x)[0]


@pytest.mark.parametrize("wrap", [False, True])
def test_a_function_of_single_columns_is_unchanged(wrap):
    average = average_without_caches(Windows.cover(50, 16, wrap))
    np.testing.assert_allclose(average(jnp.sin, X), jnp.sin(X), atol=1e-6)


def test_disagreeing_windows_fade_into_each_other():
    """The result has no steps if each window predicts its own constant."""
    windows = Windows.cover(50, 16, wrap=True)
    ramp = average_without_caches(windows)(lambda x: jnp.full_like(x, jnp.abs(x[0, 0, 0, 0]) * 10), X)[0, 0, :, 0]
    steps = np.abs(np.diff(np.append(ramp, ramp[0])))
    assert np.ptp(ramp) > 5 and steps.max() < np.ptp(ramp) / 4


def test_a_loop_has_no_seam():
    windows, shift = Windows.cover(64, 16, wrap=True), 8  # the distance between windows

    def predict(x):
        return jnp.cumsum(x, axis=2)

    x = X[:, :, np.arange(64) % 50]
    average = average_without_caches(windows)
    rolled = average(predict, jnp.roll(x, shift, axis=2))
    np.testing.assert_allclose(rolled, jnp.roll(average(predict, x), shift, axis=2), atol=1e-5)


def test_each_window_has_its_own_cache():
    windows = Windows.cover(50, 16, wrap=False)
    count = len(windows.starts)

    def predict(x, cache):
        return x, cache + x[:, 0, :1, 0]

    average, caches = windows.average(predict, X, jnp.zeros((len(X), count, 1)))
    np.testing.assert_allclose(average, X, atol=1e-6)
    np.testing.assert_allclose(caches[..., 0], X[:, 0, windows.starts, 0], rtol=1e-6)
