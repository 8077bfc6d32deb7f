"""The beads beside `denoise`: prompts to text features, latents to pictures, spectrograms to sound.

Each jitted function takes its module as an argument, so that weights are never baked into a program.
"""

import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.errors import UserError
from its_jax.models.unet import Prepared
from its_jax.spectrogram import MelConfig, from_picture, griffin_lim

CROPPED_COLUMNS = 32  # `crop_image`: Auffusion leaves so many columns black at the end
CROPPED_LATENTS = 4  # `cutoff_latent`: the same columns, cut off before decoding
GRIFFIN_LIM_ITERS = 64
# Of a loop: columns that are decoded and vocoded on either side of it, beyond what the convolutions reach.
WRAPPED_LATENTS = 24
WRAPPED_FRAMES = 64


def cut(first: int, last: int, calls: int) -> list[int]:
    """Where steps first, ..., last - 1 begin and end if they are made in so many calls, or fewer: rising."""
    return sorted({first + round((last - first) * i / calls) for i in range(calls + 1)})


def tokenize(tokenizer, prompts):
    """Prompts -> token ids, int32 `[n, tokenizer.model_max_length]`, cut or padded with the tokenizer's pad token."""
    length = tokenizer.model_max_length
    encoded = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length)
    return np.asarray(encoded.input_ids, np.int32)


def tokenize_for_pixels(tokenizer, prompts):
    """`tokenize` for DeepFloyd IF, which was trained on lower case: int32 `[n, 77]`."""
    return tokenize(tokenizer, [prompt.lower().strip() for prompt in prompts])


def warn_of_prompts(tokenizer, prompts, *, vocabulary=None):
    """Logs a warning for each prompt that is too long, with what is cut, or has words outside `vocabulary`."""
    for prompt in prompts:
        _warn_of_cut(tokenizer, prompt)
        if vocabulary is not None:
            _warn_of_unknown_words(prompt, vocabulary)


def _warn_of_cut(tokenizer, prompt):
    kept = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()  # CLIP's start and end, T5's end
    options = dict(add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = tokenizer(prompt, **options).offset_mapping
    if len(spans) > kept:
        cut = prompt[spans[kept][0] :].strip()
        logging.warning("prompt %r is longer than %d tokens: %r is cut off", prompt, kept, cut)


def _warn_of_unknown_words(prompt, vocabulary):
    unknown = [word for word in re.findall(r"\w+|[^\w\s]", prompt.lower()) if word not in vocabulary]
    if unknown:
        known = " ".join(sorted(word for word in vocabulary if word.isalpha()))
        logging.warning(
            "prompt %r: this small model was not trained on %s; it knows: %s",
            prompt,
            ", ".join(map(repr, dict.fromkeys(unknown))),
            known,
        )


@jax.jit
def encode_texts(text_encoder, ids):
    """Token ids `[b, n]` -> text features `[b, n, d]`."""
    return text_encoder(ids)


@jax.jit
def encode_texts_for_pixels(text_encoder, ids):
    """Token ids `[b, 77]` -> text features `[b, 77, d]` of a T5 encoder, whose tokens do not see the padding; the UNets
    of DeepFloyd IF see it."""
    return text_encoder(ids, ids != text_encoder.config.pad_token_id)


@jax.jit
def prepare_texts(text_encoder, unet, ids):
    """Token ids `[b, n]` -> what a UNet takes from their text features, see `UNet2DConditionModel.project_text`."""
    return unet.project_text(text_encoder(ids))


@jax.jit
def project_text(unet, text):
    """Text features `[b, n, d]` -> what a UNet takes from them, leaves `[b, ...]`."""
    return unet.project_text(text)


def prepare_unet(unet, timesteps):
    """A UNet for `its_jax.denoise`, with what it takes from its `timesteps`; the weights stay where they are."""
    return Prepared(unet, _project_time(unet, jnp.arange(timesteps)))


@jax.jit
def _project_time(unet, t):
    return unet.project_time(t)


@jax.jit
def encode_picture(vae, picture):
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
    made = {frame: shown(latents, decoders[frame[0]], frame[1], wrap) for frame in dict.fromkeys(frames)}
    heard, *pictures = (made[frame] for frame in frames)
    return in_levels(heard.mean(axis=-1)), tuple(pictures)


def shown(latents, decoder, view, wrap):
    """Latents `[b, h, w, 4]` -> pictures `[b, H, W, 3]` in [0, 1] as a view lays them out."""
    if not wrap:
        return decode_latents(decoder, view.look(latents))
    # The joint is decoded in the middle of a longer canvas, of which the loop is cut out.
    picture = view.back(decode_latents(decoder, view.look(_extended(latents, WRAPPED_LATENTS, axis=2))))
    width, factor = latents.shape[2], decoder.config.factor
    return view.look(picture[:, :, WRAPPED_LATENTS * factor :][:, :, : width * factor])


def in_levels(picture):
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
    mels = from_picture(spectrogram, config)
    sound = vocoder if method == "hifigan" else lambda mels: griffin_lim(mels, config, GRIFFIN_LIM_ITERS)
    # One sample after the other, as in `decode`: a TPU fills up a vocoder's few channels to 128.
    waveform = jax.lax.map(lambda mel: sound(mel[None])[0], mels)
    if wrap:
        waveform = waveform[:, WRAPPED_FRAMES * config.hop_length :][:, :samples]
    return jnp.clip(waveform.astype(jnp.float32), -1.0, 1.0)


def cropped(picture, waveform):
    """`crop_image`: the picture `[H, W, ...]` without its last 32 columns, the waveform shortened in proportion."""
    width, samples = picture.shape[1], len(waveform)
    return picture[:, : width - CROPPED_COLUMNS], waveform[: samples - int(CROPPED_COLUMNS / width * samples)]
