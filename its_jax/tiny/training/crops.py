"""Crops of images, of spectrograms, and of mixtures of both: the data of the VAE and the vocoder."""

from collections.abc import Sequence

import numpy as np

from its_jax.tiny.data import items

SHARES = (0.35, 0.35, 0.2, 0.1)  # of images, spectrograms, their maxima and their means in a batch


def make_canvases(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes the first images and the first spectrograms of a split, uint8 `[count, 128, 512]` each."""
    return items.make_pictures(split, count), items.make_spectrograms(split, count)


def random_crop(
    rng: np.random.Generator,
    images: np.ndarray,
    spectrograms: np.ndarray,
    width: int,
    shares: Sequence[float] = SHARES,
) -> np.ndarray:
    """Returns a random crop, uint8 `[128, width]`, of an image, a spectrogram, or their maximum or mean."""
    a, b = _crop(rng, images, width), _crop(rng, spectrograms, width)
    kind = rng.choice(4, p=shares)
    return (a, b, np.maximum(a, b), a // 2 + b // 2)[kind]


def _crop(rng: np.random.Generator, canvases: np.ndarray, width: int) -> np.ndarray:
    """Returns a random crop of one of the canvases."""
    start = rng.integers(canvases.shape[2] - width + 1)
    return canvases[rng.integers(len(canvases)), :, start : start + width]
