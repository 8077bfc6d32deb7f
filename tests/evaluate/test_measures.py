"""Measures of one sample."""

import numpy as np

from its_jax.evaluate import measures


def test_squares_cut_a_wide_image_without_resizing_it():
    gray = np.random.default_rng(0).random((16, 52))
    found = measures.squares(gray)
    assert found.shape == (3, 16, 16, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[2, :, :, 0], np.rint(np.float32(gray[:, 32:48]) * 255))
