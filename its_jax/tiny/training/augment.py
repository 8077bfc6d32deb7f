"""Random disturbances of a canvas, after which it resembles a fused sample."""

import functools

import numpy as np
from scipy.ndimage import gaussian_filter

from its_jax.tiny.data import items
from its_jax.tiny.recipe import canvas


def disturb(rng: np.random.Generator, item: np.ndarray, other: np.ndarray, comb: float = 0.0) -> np.ndarray:
    """Disturbs a canvas by an overlay, blur, noise and contrast, each at random.

    Args:
      item: uint8 `[h, w]`.
      other: the overlay, a canvas of the other kind.
      comb: probability of the gaps that a vocoder leaves between its harmonics. They need 128 rows.

    Returns:
      float `[h, w]` in [0, 1].
    """
    x, overlay = item / np.float32(255), other / np.float32(255)
    kind = rng.integers(4)
    if kind == 0:
        x = np.maximum(x * rng.uniform(0.6, 1.0), overlay * rng.uniform(0.0, 0.9))
    elif kind == 1:
        share = rng.uniform(0.5, 1.0)
        x = share * x + (1 - share) * overlay
    elif kind == 2:  # The canvas consists of the strokes of the other.
        x = x * (1 - rng.uniform(0.3, 0.9) * (1 - overlay))
        x = x * (rng.uniform(0.6, 1.0) / x.max())
    if rng.random() < 0.5:
        x = gaussian_filter(x, rng.uniform(0.0, 1.5))
    if rng.random() < comb:
        x = np.maximum(x + rng.uniform(0.0, 1.5) * _comb(), 0)
    x = np.clip(x + rng.uniform(0.0, 0.12) * rng.standard_normal(x.shape, dtype=np.float32), 0, 1)
    if rng.random() < 0.5:
        x = np.clip(rng.uniform(0.7, 1.3) * x ** rng.uniform(0.7, 1.4), 0, 1)
    return x


@functools.cache
def _comb() -> np.ndarray:
    """Computes the brightness of the gaps between harmonics of the frame rate, `[128, 1]`, at most 0.

    A vocoder without noise can only play a steady sound with these harmonics, see `vocoder_init.py`.
    """
    clicks = np.zeros((1, canvas.NUM_SAMPLES), np.float32)
    clicks[:, :: canvas.MEL.hop_length] = 0.1
    response = np.asarray(items.to_spectrogram(clicks)).mean(axis=2).T
    return np.minimum(response - np.median(response), 0)
