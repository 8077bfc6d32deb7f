"""Program-made training and held-out data: pictures and spectrograms `[n, 128, 512]` as uint8, with their labels.

Every item is a pure function of (kind, split, index), so that training, held-out figures and judges draw from
streams that never meet.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.audio.mel import MelConfig, log_mel, mel_to_image
from its_jax.tiny import recipe
from its_jax.tiny.data import pictures, sounds

SPLITS = ("train", "held_out", "judge_train", "judge_held_out", "contrast_train", "contrast_held_out", "picker_train")
SUBJECTS, SOUNDS = tuple(pictures.SUBJECTS), tuple(sounds.SOUNDS)


def generator(kind, split, index):
    """The random generator of one item; `kind` is 'picture', 'sound' or the name of another stream."""
    return np.random.default_rng([*kind.encode(), SPLITS.index(split), index])


def labels(count):
    """Item i is of class i mod 12."""
    return np.arange(count) % len(SUBJECTS)


def make_pictures(split, count):
    """`[count, 128, 512]` uint8."""
    return np.stack(
        [to_bytes(pictures.draw(SUBJECTS[i % len(SUBJECTS)], generator("picture", split, i))) for i in range(count)]
    )


@functools.partial(jax.jit, static_argnames="config")
def to_spectrogram(waveform, config: MelConfig = recipe.MEL):
    """`[b, samples]` -> pictures `[b, mels, frames]` in [0, 1]."""
    return mel_to_image(log_mel(waveform, config), config)


def make_spectrograms(split, count, block=60):
    """`[count, 128, 512]` uint8."""
    items = range(count)
    blocks = [make_waveforms(split, items[start : start + block]) for start in items[::block]]
    return np.concatenate([to_bytes(np.asarray(to_spectrogram(waveforms))) for waveforms in blocks])


def make_waveforms(split, items):
    """`[len(items), samples]` float32 of the items with these indices."""
    return np.stack([sounds.synthesize(SOUNDS[i % len(SOUNDS)], generator("sound", split, i)) for i in items])


def to_bytes(picture):
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def to_rgb(picture):
    """uint8 or [0, 1] float `[b, h, w]` -> float32 `[b, h, w, 3]` in [-1, 1], as the VAE takes it."""
    x = jnp.asarray(picture, jnp.float32) / (255.0 if picture.dtype == np.uint8 else 1.0)
    return jnp.repeat(x[..., None] * 2 - 1, 3, axis=-1)


def psnr(x, y):
    """Mean over pictures `[n, h, w]` in [0, 1] of the peak signal-to-noise ratio in dB."""
    mse = np.mean(np.square(np.asarray(x, np.float64) - np.asarray(y, np.float64)), axis=(1, 2))
    return float(np.mean(-10 * np.log10(np.maximum(mse, 1e-12))))
