"""Latents -> images and spectrogram -> waveform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.audio.griffin_lim import griffin_lim
from its_jax.audio.mel import MelConfig, image_to_mel
from its_jax.errors import UserError

CROPPED_COLUMNS = 32  # `crop_image`: Auffusion leaves so many columns black at the end
CROPPED_LATENTS = 4  # `cutoff_latent`: the same columns, cut off before decoding
GRIFFIN_LIM_ITERS = 64
# Of a loop: columns that are decoded and vocoded on either side of it, beyond what the convolutions reach.
WRAPPED_LATENTS = 24
WRAPPED_FRAMES = 64


@jax.jit
def encode_image(vae, picture):
    """Pictures `[b, H, W, 3]` in [0, 1] -> scaled latents `[b, h, w, 4]` float32, the mean of the posterior."""
    return vae.encode(picture * 2 - 1).mean.astype(jnp.float32) * vae.config.scaling_factor


@jax.jit
def decode_latents(vae, latents):
    """Scaled latents `[b, h, w, 4]` -> pictures `[b, H, W, 3]` float32 in [0, 1]."""
    picture = vae.decode(latents / vae.config.scaling_factor).astype(jnp.float32)
    return jnp.clip(picture / 2 + 0.5, 0.0, 1.0)


@functools.partial(jax.jit, static_argnames=("frames", "cutoff", "wrap"))
def decode(latents, decoders, frames, cutoff=False, wrap=False):
    """What one latent `[b, h, w, 4]` is to the ear, `[b, H, W]`, and to the eye, `[b, H, W, 3]` each; in [0, 1].

    The spectrogram has 256 levels, so that the file that shows it holds exactly what is vocoded.

    Args:
      decoders: VAEs.
      frames: for the ear, then for each picture: the place of its VAE in `decoders`, and its `View`.
      cutoff: drop the last `CROPPED_LATENTS` columns before. wrap: the last column leads into the first.

    Returns:
      the spectrogram, and a tuple of the pictures.
    """
    latents = latents[:, :, :-CROPPED_LATENTS] if cutoff else latents
    # One sample after the other: one of full size fills a device, and takes much memory.
    return jax.lax.map(lambda z: jax.tree.map(lambda a: a[0], _decode(z[None], decoders, frames, wrap)), latents)


def _decode(latents, decoders, frames, wrap):
    made = {frame: render_view(latents, decoders[frame[0]], frame[1], wrap) for frame in dict.fromkeys(frames)}
    heard, *pictures = (made[frame] for frame in frames)
    return quantize(heard.mean(axis=-1)), tuple(pictures)


def render_view(latents, decoder, view, wrap):
    """Latents `[b, h, w, 4]` -> pictures `[b, H, W, 3]` in [0, 1] as a view lays them out."""
    if not wrap:
        return decode_latents(decoder, view.apply(latents))
    # The joint is decoded in the middle of a longer canvas, of which the loop is cut out.
    picture = view.invert(decode_latents(decoder, view.apply(_extended(latents, WRAPPED_LATENTS, axis=2))))
    width, factor = latents.shape[2], decoder.config.factor
    return view.apply(picture[:, :, WRAPPED_LATENTS * factor :][:, :, : width * factor])


def quantize(picture):
    """The nearest of the 256 levels that a PNG has."""
    return jnp.round(picture * 255) / 255


def _extended(x, count, axis):
    """A loop with `count` more of its elements on either side."""
    size = x.shape[axis]
    return jnp.take(x, np.arange(-count, size + count) % size, axis=axis)


def mel_config(vocoder_config, height):
    """The mel front end that a vocoder was trained on; its bands must be the rows of the picture.

    Raises:
      UserError: the picture has another height.
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
def vocode(vocoder, spectrogram, config: MelConfig, method, wrap=False):
    """Grey pictures `[b, H, W]` in [0, 1] -> waveforms `[b, W * hop_length]` float32 in [-1, 1].

    Args:
      method: 'hifigan' (the `vocoder`) or 'griffin_lim'. wrap: the end leads into the beginning.
    """
    samples = spectrogram.shape[2] * config.hop_length
    if wrap:
        spectrogram = _extended(spectrogram, WRAPPED_FRAMES, axis=2)
    mels = image_to_mel(spectrogram, config)
    sound = vocoder if method == "hifigan" else lambda mels: griffin_lim(mels, config, GRIFFIN_LIM_ITERS)
    # One sample after the other, as in `decode`: a TPU fills up a vocoder's few channels to 128.
    waveform = jax.lax.map(lambda mel: sound(mel[None])[0], mels)
    if wrap:
        waveform = waveform[:, WRAPPED_FRAMES * config.hop_length :][:, :samples]
    return jnp.clip(waveform.astype(jnp.float32), -1.0, 1.0)


def crop(picture, waveform):
    """`crop_image`: the picture `[H, W, ...]` without its last 32 columns, the waveform shortened in proportion."""
    width, samples = picture.shape[1], len(waveform)
    return picture[:, : width - CROPPED_COLUMNS], waveform[: samples - int(CROPPED_COLUMNS / width * samples)]
