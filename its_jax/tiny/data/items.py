"""Training and held-out data made by program: images and spectrograms `[n, 128, 512]` as uint8, with their labels.

Every item is a pure function of (kind, split, index), so training, held-out figures and judges draw from streams of
random numbers that never meet.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.audio.mel import MelConfig, log_mel, mel_to_image
from its_jax.tiny.data import pictures, sounds
from its_jax.tiny.recipe import canvas

SPLITS = ("train", "held_out", "judge_train", "judge_held_out", "contrast_train", "contrast_held_out")
SUBJECTS, SOUNDS = tuple(pictures.SUBJECTS), tuple(sounds.SOUNDS)
CLASSES = len(SUBJECTS)  # as many as SOUNDS


def generator(kind: str, split: str, index: int) -> np.random.Generator:
    """Returns the random generator of one item. `kind` is 'picture', 'sound' or the name of another stream."""
    return np.random.default_rng([*kind.encode(), SPLITS.index(split), index])


def labels(count: int) -> np.ndarray:
    """Returns the classes `[count]` of the first items: item i has class i mod 12."""
    return np.arange(count) % CLASSES


def make_pictures(split: str, count: int) -> np.ndarray:
    """Draws the first images of a split, uint8 `[count, 128, 512]`."""
    return np.stack(
        [to_bytes(pictures.draw(SUBJECTS[i % CLASSES], generator("picture", split, i))) for i in range(count)]
    )


def make_spectrograms(split: str, count: int, block: int = 60) -> np.ndarray:
    """Computes the spectrograms of the first waveforms of a split, `block` at once: uint8 `[count, 128, 512]`."""
    indices = range(count)
    blocks = [make_waveforms(split, indices[start : start + block]) for start in indices[::block]]
    return np.concatenate([to_bytes(np.asarray(to_spectrogram(waveforms))) for waveforms in blocks])


def make_waveforms(split: str, indices: Sequence[int]) -> np.ndarray:
    """Synthesizes the waveforms of a split with these indices, float32 `[len(indices), samples]`."""
    return np.stack([sounds.synthesize(SOUNDS[i % CLASSES], generator("sound", split, i)) for i in indices])


@functools.partial(jax.jit, static_argnames="config")
def to_spectrogram(waveform: jax.Array, config: MelConfig = canvas.MEL) -> jax.Array:
    """Computes spectrograms `[b, mels, frames]` in [0, 1] of waveforms `[b, samples]`."""
    return mel_to_image(log_mel(waveform, config), config)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Quantizes an image in [0, 1] to uint8."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def to_rgb(image: np.ndarray) -> jax.Array:
    """Returns uint8 or [0, 1] float images `[b, h, w]` as the VAE's input, float32 `[b, h, w, 3]` in [-1, 1]."""
    x = jnp.asarray(image, jnp.float32) / (255.0 if image.dtype == np.uint8 else 1.0)
    return jnp.repeat(x[..., None] * 2 - 1, 3, axis=-1)


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the mean peak signal-to-noise ratio in dB over images `[n, h, w]` in [0, 1]."""
    mse = np.mean(np.square(np.asarray(x, np.float64) - np.asarray(y, np.float64)), axis=(1, 2))
    return float(np.mean(-10 * np.log10(np.maximum(mse, 1e-12))))
