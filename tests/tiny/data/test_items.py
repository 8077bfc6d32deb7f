"""The splits of training and held-out data."""

import numpy as np

from its_jax.tiny.data import items


def test_every_split_has_different_items_and_repeats_them():
    draws = {split: items.make_pictures(split, 2) for split in items.SPLITS}
    assert all(not np.array_equal(draws["train"], draws[split]) for split in items.SPLITS[1:])
    np.testing.assert_array_equal(draws["train"], items.make_pictures("train", 2))


def test_spectrograms_do_not_depend_on_the_block_size():
    np.testing.assert_array_equal(
        items.make_spectrograms("train", 5, block=2), items.make_spectrograms("train", 5, block=5)
    )
