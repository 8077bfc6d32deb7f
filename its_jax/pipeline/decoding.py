"""Latents -> images and spectrogram -> waveform."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from its_jax.audio.griffin_lim import griffin_lim
from its_jax.audio.mel import MelConfig, image_to_mel
from its_jax.diffusion.views import View
from its_jax.errors import UserError

CROPPED_COLUMNS = 32  # `crop_image` drops this many columns, which Auffusion leaves black at the end.
CROPPED_LATENTS = 4  # `cutoff_latent` drops the same columns before decoding.
GRIFFIN_LIM_ITERS = 64
# A loop is decoded and vocoded with this many further columns on either side, beyond the reach of the convolutions.
WRAPPED_LATENTS = 24
WRAPPED_FRAMES = 64


@jax.jit
def encode_image(vae: Any, image: Array | np.ndarray) -> Array:
    """Encodes images `[b, H, W, 3]` in [0, 1] as scaled latents `[b, h, w, 4]` float32, the mean of the posterior."""
    return vae.encode(image * 2 - 1).mean.astype(jnp.float32) * vae.config.scaling_factor


@jax.jit
def decode_latents(vae: Any, latents: Array) -> Array:
    """Decodes scaled latents `[b, h, w, 4]` as images `[b, H, W, 3]` float32 in [0, 1]."""
    image = vae.decode(latents / vae.config.scaling_factor).astype(jnp.float32)
    return jnp.clip(image / 2 + 0.5, 0.0, 1.0)


@functools.partial(jax.jit, static_argnames=("frames", "cutoff", "wrap"))
def decode(
    latents: Array, vaes: Sequence[Any], frames: Sequence[tuple[int, View]], cutoff: bool = False, wrap: bool = False
) -> tuple[Array, tuple[Array, ...]]:
    """Decodes latents `[b, h, w, 4]` as spectrograms and images.

    Spectrograms have 256 levels, so that the file that shows one holds exactly what is vocoded.

    Args:
      frames: for the spectrogram, then for each image: the index of its VAE in `vaes`, and its view.
      cutoff: whether to drop the last `CROPPED_LATENTS` columns first.
      wrap: whether the last column leads into the first.

    Returns:
      the spectrograms `[b, H, W]`, and a tuple of images `[b, H, W, 3]`, all in [0, 1].
    """
    latents = latents[:, :, :-CROPPED_LATENTS] if cutoff else latents
    # One sample after the other, because one of full size fills a device and takes much memory.
    return jax.lax.map(lambda z: jax.tree.map(lambda a: a[0], _decode(z[None], vaes, frames, wrap)), latents)


def _decode(latents, vaes, frames, wrap):
    rendered = {frame: render_view(latents, vaes[frame[0]], frame[1], wrap) for frame in dict.fromkeys(frames)}
    spectrogram, *images = (rendered[frame] for frame in frames)
    return quantize(spectrogram.mean(axis=-1)), tuple(images)


def render_view(latents: Array, vae: Any, view: View, wrap: bool) -> Array:
    """Decodes latents `[b, h, w, 4]` as images `[b, H, W, 3]` in [0, 1] in the layout of a view."""
    if not wrap:
        return decode_latents(vae, view.apply(latents))
    # The seam is decoded in the middle of a longer canvas, from which the loop is cut.
    image = view.invert(decode_latents(vae, view.apply(_extend(latents, WRAPPED_LATENTS, axis=2))))
    width, factor = latents.shape[2], vae.config.factor
    return view.apply(image[:, :, WRAPPED_LATENTS * factor :][:, :, : width * factor])


def quantize(image: Array) -> Array:
    """Rounds to the nearest of the 256 levels of a PNG."""
    return jnp.round(image * 255) / 255


def as_png(image: np.ndarray) -> np.ndarray:
    """Returns an image in [0, 1] as a PNG holds it, float32 of 256 levels."""
    return np.clip(np.rint(np.asarray(image, np.float32) * 255), 0, 255) / np.float32(255)


def _extend(x, count, axis):
    """Extends a loop by `count` of its elements on either side."""
    size = x.shape[axis]
    return jnp.take(x, np.arange(-count, size + count) % size, axis=axis)


def mel_config(vocoder_config: Any, height: int) -> MelConfig:
    """Returns the mel front end that a vocoder was trained on; its bands are the rows of the spectrogram.

    Raises:
      UserError: the spectrogram has another height.
    """
    if vocoder_config.num_mels != height:
        raise UserError(f"height={height}: the vocoder has {vocoder_config.num_mels} mel bands, so height must be that")
    return MelConfig(
        sampling_rate=vocoder_config.sampling_rate,
        n_fft=vocoder_config.n_fft,
        win_length=vocoder_config.win_size,
        hop_length=vocoder_config.hop_size,
        n_mels=vocoder_config.num_mels,
        fmin=vocoder_config.fmin,
        fmax=vocoder_config.fmax or vocoder_config.sampling_rate / 2,
        log_min=vocoder_config.log_min,
        log_max=vocoder_config.log_max,
    )


@functools.partial(jax.jit, static_argnames=("config", "method", "wrap"))
def vocode(vocoder: Any, spectrogram: Array, config: MelConfig, method: str, wrap: bool = False) -> Array:
    """Converts spectrograms `[b, H, W]` in [0, 1] to waveforms `[b, W * hop_length]` float32 in [-1, 1].

    Args:
      method: 'hifigan' (the `vocoder`) or 'griffin_lim'. wrap: whether the end leads into the beginning.
    """
    samples = spectrogram.shape[2] * config.hop_length
    if wrap:
        spectrogram = _extend(spectrogram, WRAPPED_FRAMES, axis=2)
    mels = image_to_mel(spectrogram, config)
    sound = vocoder if method == "hifigan" else lambda mels: griffin_lim(mels, config, GRIFFIN_LIM_ITERS)
    # One sample after the other, as in `decode`, because a TPU pads a vocoder's few channels to 128.
    waveform = jax.lax.map(lambda mel: sound(mel[None])[0], mels)
    if wrap:
        waveform = waveform[:, WRAPPED_FRAMES * config.hop_length :][:, :samples]
    return jnp.clip(waveform.astype(jnp.float32), -1.0, 1.0)


def crop_image(image: np.ndarray) -> np.ndarray:
    """Drops the last 32 columns of an image `[H, W, ...]`."""
    return image[:, : image.shape[1] - CROPPED_COLUMNS]


def crop(image: np.ndarray, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drops the last 32 columns of an image `[H, W, ...]`, and the same share of the waveform, for `crop_image`."""
    width, samples = image.shape[1], len(waveform)
    return crop_image(image), waveform[: samples - int(CROPPED_COLUMNS / width * samples)]
