"""Prompts -> what a UNet takes from them."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.models.unet import PrecomputedUNet


def tokenize(tokenizer, prompts):
    """Prompts -> token ids, int32 `[n, tokenizer.model_max_length]`, cut or padded with the tokenizer's pad token."""
    length = tokenizer.model_max_length
    encoded = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length)
    return np.asarray(encoded.input_ids, np.int32)


def tokenize_for_pixels(tokenizer, prompts):
    """`tokenize` for DeepFloyd IF, which was trained on lower case: int32 `[n, 77]`."""
    return tokenize(tokenizer, [prompt.lower().strip() for prompt in prompts])


def warn_about_prompts(tokenizer, prompts, *, vocabulary=None):
    """Logs a warning for each prompt that is too long, with what is cut, or has words outside `vocabulary`."""
    for prompt in prompts:
        _warn_about_truncation(tokenizer, prompt)
        if vocabulary is not None:
            _warn_about_unknown_words(prompt, vocabulary)


def _warn_about_truncation(tokenizer, prompt):
    kept = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()  # CLIP's start and end, T5's end
    options = dict(add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = tokenizer(prompt, **options).offset_mapping
    if len(spans) > kept:
        cut = prompt[spans[kept][0] :].strip()
        logging.warning("prompt %r is longer than %d tokens: %r is cut off", prompt, kept, cut)


def _warn_about_unknown_words(prompt, vocabulary):
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
def encode_tokens(text_encoder, ids):
    """Token ids `[b, n]` -> text features `[b, n, d]`."""
    return text_encoder(ids)


@jax.jit
def encode_tokens_for_pixels(text_encoder, ids):
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
    """A UNet for `its_jax.diffusion.denoise`, with what it takes from its `timesteps`; the weights stay where they are."""
    return PrecomputedUNet(unet, _project_time(unet, jnp.arange(timesteps)))


@jax.jit
def _project_time(unet, t):
    return unet.project_time(t)
