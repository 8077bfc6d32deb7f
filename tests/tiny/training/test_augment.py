"""Disturbed canvases."""

import numpy as np

from its_jax.tiny.data import items
from its_jax.tiny.training import augment


def test_disturbed_canvases_stay_in_range():
    rng = np.random.default_rng(0)
    item, other = items.make_pictures("train", 1)[0], items.make_spectrograms("train", 1)[0]
    for comb in (0.0, 1.0):
        for _ in range(10):
            x = augment.disturb(rng, item, other, comb)
            assert x.shape == item.shape and x.min() >= 0 and x.max() <= 1
