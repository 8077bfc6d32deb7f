"""Colored images whose gray is given."""

import numpy as np
import pytest

from its_jax.colorize import luminance
from its_jax.media import images
from tests.helpers.torch_twins import normal


@pytest.mark.parametrize("spread", [0.05, 0.5, 5.0])
def test_the_gray_of_each_pixel_is_kept_for_any_colors(spread):
    g = np.arange(256, dtype=np.float32).repeat(64).reshape(1, 64, 256, 1) / 255
    found = np.asarray(luminance.clip_to_gamut(g, 0.5 + spread * normal((1, 64, 256, 3))))
    assert found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(found.mean(axis=-1, keepdims=True), g, rtol=0, atol=1e-6)
    levels = np.rint(found * 255)
    # Rounding each channel changes their mean by half a level at most.
    assert np.abs(levels.mean(axis=-1, keepdims=True) - np.rint(g * 255)).max() <= 0.5 + 1e-6
    assert (found[g[..., 0] == 0] == 0).all() and (found[g[..., 0] == 1] == 1).all()


def test_the_gray_is_kept_in_the_file(tmp_path):
    g = np.random.default_rng(0).integers(0, 256, (1, 40, 60, 1)).astype(np.float32) / 255
    colored = np.asarray(luminance.clip_to_gamut(g, normal((1, 40, 60, 3))))[0]
    images.write_png(tmp_path / "a.png", colored, {})
    image, _ = images.read_png(tmp_path / "a.png")
    assert np.abs(image.mean(axis=-1) - g[0, ..., 0]).max() <= 1 / 255


def test_colors_are_reduced_only_as_far_as_the_range_requires():
    g, image = np.full((1, 1, 1, 1), 0.8, np.float32), np.array([0.9, 0.5, 0.1], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(np.ravel(luminance.clip_to_gamut(g, image)), [1.0, 0.8, 0.6], rtol=0, atol=1e-6)
    weak = 0.8 + 0.1 * (image - 0.5)
    np.testing.assert_allclose(luminance.clip_to_gamut(g, weak), weak, rtol=0, atol=1e-6)
