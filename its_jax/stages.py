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
from its_jax.spectrogram import MelConfig, from_picture, griffin_lim

CROPPED_COLUMNS = (
    32  # `crop_image`: Auffusion leaves that many columns black at the end (method.md of the authors' code)
)
CROPPED_LATENTS = 4  # `cutoff_latent`: the same columns, cut off before decoding
GRIFFIN_LIM_ITERS = 64


def tokenize(tokenizer, prompts, *, vocabulary=None):
    """Prompts -> token ids, int32 `[n, tokenizer.model_max_length]`, padded with the tokenizer's pad token.

    Logs a warning for a prompt that is too long, with what was cut, and for words outside `vocabulary`.
    """
    for prompt in dict.fromkeys(prompts):
        _warn_of_cut(tokenizer, prompt)
        if vocabulary is not None:
            _warn_of_unknown_words(prompt, vocabulary)
    encoded = tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length
    )
    return np.asarray(encoded.input_ids, np.int32)


def _warn_of_cut(tokenizer, prompt):
    kept = tokenizer.model_max_length - 2  # start and end
    pieces = tokenizer.tokenize(prompt)
    if len(pieces) > kept:
        cut = tokenizer.convert_tokens_to_string(pieces[kept:]).strip()
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
    """Token ids `[b, 2, n]` (negative, positive) -> text features `[b, 2, n, d]`."""
    b, pair, n = ids.shape
    return text_encoder(ids.reshape(b * pair, n)).reshape(b, pair, n, -1)


@jax.jit
def encode_picture(vae, picture):
    """Pictures `[b, H, W, 3]` in [0, 1] -> scaled latents `[b, h, w, 4]` float32, the mean of the posterior."""
    return vae.encode(picture * 2 - 1).mean.astype(jnp.float32) * vae.config.scaling_factor


@jax.jit
def decode_latents(vae, latents):
    """Scaled latents `[b, h, w, 4]` -> pictures `[b, H, W, 3]` float32 in [0, 1]."""
    picture = vae.decode(latents / vae.config.scaling_factor).astype(jnp.float32)
    return jnp.clip(picture / 2 + 0.5, 0.0, 1.0)


def mel_config(vocoder_config, height):
    """The mel front end that a vocoder was trained on; its bands must be the rows of the picture.

    Raises:
      UserError: the picture has another height.
    """
    if vocoder_config.num_mels != height:
        raise UserError(
            f"height={height}: the vocoder has {vocoder_config.num_mels} mel bands, so height must be that"
        )
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


@functools.partial(jax.jit, static_argnames=("config", "method"))
def vocode(vocoder, spectrogram, config: MelConfig, method):
    """Grey pictures `[b, H, W]` in [0, 1] -> waveforms `[b, W * hop_length]` float32 in [-1, 1].

    Args:
      method: 'hifigan' (the `vocoder`) or 'griffin_lim'.
    """
    mels = from_picture(spectrogram, config)
    waveform = vocoder(mels) if method == "hifigan" else griffin_lim(mels, config, GRIFFIN_LIM_ITERS)
    return jnp.clip(waveform.astype(jnp.float32), -1.0, 1.0)


def cropped(picture, waveform):
    """`crop_image`: the picture `[H, W, ...]` without its last 32 columns, the waveform shortened in proportion."""
    width = picture.shape[1]
    return picture[:, : width - CROPPED_COLUMNS], waveform[
        : len(waveform) - int(CROPPED_COLUMNS / width * len(waveform))
    ]
