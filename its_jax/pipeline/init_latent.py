"""What a sample starts from other than noise: a picture or a sound -> a latent, and the part of it that stays."""

import logging
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.audio.mel import MelConfig, log_mel, mel_edges, mel_to_image
from its_jax.diffusion.views import View
from its_jax.errors import UserError
from its_jax.media import images, sounds
from its_jax.pipeline import decoding


def from_image(path: str, vae, view: View, height: int, width: int) -> jax.Array:
    """The latent `[h, w, 4]`, as the spectrogram lies, in which `view` shows the picture in this file.

    Args:
      height, width: of the spectrogram, pixels.
    """
    seen = jax.eval_shape(view.apply, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32))
    picture = images.read_image(path, *seen.shape[1:3])
    return view.invert(decoding.encode_image(vae, picture[None]))[0]


def from_audio(path: str, vae, mel: MelConfig, width: int) -> jax.Array:
    """The latent `[h, w, 4]` of the sound in this file, cut or filled up with silence to `width` frames."""
    waveform, wanted = sounds.read_audio(path, mel.sampling_rate), width * mel.hop_length
    if len(waveform) != wanted:
        what = "cut" if len(waveform) > wanted else "filled up with silence"
        found, asked = len(waveform) / mel.sampling_rate, wanted / mel.sampling_rate
        logging.info("%s has %.2f s of sound: %s to %.2f s", path, found, what, asked)
    waveform = np.pad(waveform[:wanted], (0, max(0, wanted - len(waveform))))
    spectrogram = mel_to_image(log_mel(waveform[None], mel), mel)
    return decoding.encode_image(vae, jnp.repeat(spectrogram[..., None], 3, axis=-1))[0]


def keep_mask(
    ranges: Sequence[tuple[float, float, str]], mel: MelConfig, height: int, width: int, factor: int
) -> np.ndarray:
    """The cells of the latent that a range in seconds or in Hz touches, bool `[h, w, 1]`.

    Args:
      ranges: from `keep_ranges` of `its_jax.settings.validate`. height, width: of the spectrogram, pixels. factor: pixels of a cell.

    Raises:
      UserError: a range that lies outside of the canvas.
    """
    edges = mel_edges(mel)
    borders = {  # of columns, and of rows from the lowest band to the highest
        "s": np.arange(width + 1) * mel.hop_length / mel.sampling_rate,
        "Hz": (edges[1:] + edges[:-1]) / 2,
    }
    pixels = np.zeros((height, width), bool)
    for low, high, unit in ranges:
        touched = (borders[unit][1:] > low) & (borders[unit][:-1] < high)
        if not touched.any():
            limits = f"{borders[unit][0]:g}-{borders[unit][-1]:g}{unit}"
            raise UserError(f"keep: {low:g}-{high:g}{unit} lies outside of the canvas, which has {limits}")
        pixels |= touched if unit == "s" else touched[::-1, None]
    return pixels.reshape(height // factor, factor, width // factor, factor).any(axis=(1, 3))[..., None]
