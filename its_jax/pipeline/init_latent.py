"""The latent that a sample starts from in place of noise: an encoded image or sound, and what is kept of it."""

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.audio.mel import MelConfig, log_mel, mel_edges, mel_to_image
from its_jax.diffusion.views import VIEWS, View
from its_jax.errors import UserError
from its_jax.media import images, sounds
from its_jax.pipeline import decoding
from its_jax.settings.parse import file_digest
from its_jax.settings.schema import SampleSettings
from its_jax.settings.validate import keep_ranges

if TYPE_CHECKING:
    from its_jax.pipeline.components import Components

_KEPT = 256  # latents of this many files are kept, because samples that differ in their seeds share one


class InitLatents:
    """Encodes the files that samples start from, one by one, so that a latent does not depend on the batch.

    Args of the constructor:
      components: the models.
    """

    def __init__(self, components: "Components"):
        self._components = components
        self._encode = functools.lru_cache(_KEPT)(self._read_and_encode)

    def load(self, settings: SampleSettings) -> tuple[np.ndarray, np.ndarray] | None:
        """Encodes the file of `init_image` or `init_audio`.

        Returns:
          the mask of what is kept, bool `[h, w, 1]`, and the latent, float32 `[h, w, c]`; None without such a file.

        Raises:
          UserError: the file cannot be read or has changed, or a range of `keep` lies outside of the canvas.
        """
        if not (settings.init_image or settings.init_audio):
            return None
        height, width = settings.height, settings.width
        mel, factor = self._components.mel(height), self._components.vae.config.factor
        mask = keep_mask(keep_ranges(settings.keep), mel, height, width, factor)
        view = settings.terms["image"].view
        return mask, self._encode(settings.init_image, settings.init_audio, settings.init_sha256, view, height, width)

    def of_batch(self, batch: Sequence[SampleSettings]) -> tuple[jax.Array, jax.Array] | None:
        """Encodes the files of a batch, all of whose samples start from one, or none.

        Returns:
          masks `[b, h, w, 1]` and latents `[b, h, w, c]`, divided among the devices; None without files.

        Raises:
          UserError: see `load`.
        """
        loaded = [found for settings in batch if (found := self.load(settings))]
        if not loaded:
            return None
        masks, latents = (np.stack(arrays) for arrays in zip(*loaded, strict=True))
        return self._components.placement.put((masks, latents), sharded=True)

    def _read_and_encode(self, image: str, audio: str, sha256: str, view: str, height: int, width: int) -> np.ndarray:
        path = image or audio
        if file_digest(path) != sha256:
            raise UserError(f"{path}: has changed since this run began; start it again")
        if image:
            vae = self._components.models["image"].vae
            return np.asarray(from_image(path, vae, VIEWS[view], height, width))
        return np.asarray(from_audio(path, self._components.vae, self._components.mel(height), width))


def from_image(path: str, vae: Any, view: View, height: int, width: int) -> jax.Array:
    """Encodes an image so that `view` shows it upright: `[h, w, 4]` in the layout of the spectrogram.

    Args:
      height, width: of the spectrogram in pixels.
    """
    seen = jax.eval_shape(view.apply, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32))
    image = images.read_image(path, *seen.shape[1:3])
    return view.invert(decoding.encode_image(vae, image[None]))[0]


def from_audio(path: str, vae: Any, mel: MelConfig, width: int) -> jax.Array:
    """Encodes a sound, cut or padded with silence to `width` frames: `[h, w, 4]`."""
    waveform, length = sounds.read_audio(path, mel.sampling_rate), width * mel.hop_length
    if len(waveform) != length:
        change = "cut" if len(waveform) > length else "padded with silence"
        found, canvas = len(waveform) / mel.sampling_rate, length / mel.sampling_rate
        logging.info("%s has %.2f s of sound: %s to %.2f s", path, found, change, canvas)
    waveform = np.pad(waveform[:length], (0, max(0, length - len(waveform))))
    spectrogram = mel_to_image(log_mel(jnp.asarray(waveform[None]), mel), mel)
    return decoding.encode_image(vae, jnp.repeat(spectrogram[..., None], 3, axis=-1))[0]


def keep_mask(
    ranges: Sequence[tuple[float, float, str]], mel: MelConfig, height: int, width: int, factor: int
) -> np.ndarray:
    """Returns which latent cells a range in seconds or in Hz touches, bool `[h, w, 1]`.

    Args:
      ranges: see `settings.validate.keep_ranges`.
      height, width: of the spectrogram in pixels.
      factor: pixels per latent cell along each axis.

    Raises:
      UserError: a range lies outside of the canvas.
    """
    edges = mel_edges(mel)
    borders = {  # of columns, and of rows from the lowest band to the highest
        "s": np.arange(width + 1) * mel.hop_length / mel.sampling_rate,
        "Hz": (edges[1:] + edges[:-1]) / 2,
    }
    pixels = np.zeros((height, width), bool)
    for low, high, unit in ranges:
        touched: np.ndarray = np.asarray((borders[unit][1:] > low) & (borders[unit][:-1] < high))
        if not touched.any():
            limits = f"{borders[unit][0]:g}-{borders[unit][-1]:g}{unit}"
            raise UserError(f"keep: {low:g}-{high:g}{unit} lies outside of the canvas, which has {limits}")
        pixels |= touched if unit == "s" else touched[::-1, None]
    cells = pixels.reshape(height // factor, factor, width // factor, factor)
    return np.asarray(cells.any(axis=(1, 3)))[..., None]
