"""Prompts -> what a UNet takes from them: tokens, the text encoder, and the UNet's own projections.

Each jitted function takes its module as an argument, so that weights are never compiled in as constants.
"""

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from its_jax.models.unet import PrecomputedUNet


def tokenize(tokenizer: Any, prompts: Iterable[str]) -> np.ndarray:
    """Returns token ids, int32 `[n, tokenizer.model_max_length]`, truncated or padded."""
    length = tokenizer.model_max_length
    encoded = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length)
    return np.asarray(encoded.input_ids, np.int32)


def tokenize_for_pixels(tokenizer: Any, prompts: Iterable[str]) -> np.ndarray:
    """Tokenizes for DeepFloyd IF, which was trained on lower case: int32 `[n, 77]`."""
    return tokenize(tokenizer, [prompt.lower().strip() for prompt in prompts])


def warn_about_prompts(tokenizer: Any, prompts: Iterable[str], *, vocabulary: Collection[str] | None = None) -> None:
    """Logs a warning for each prompt that will be truncated, or that has words outside `vocabulary`."""
    for prompt in prompts:
        _warn_about_truncation(tokenizer, prompt)
        if vocabulary is not None:
            _warn_about_unknown_words(prompt, vocabulary)


def _warn_about_truncation(tokenizer, prompt):
    limit = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()  # CLIP's start and end, T5's end
    options = dict(add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = tokenizer(prompt, **options).offset_mapping
    if len(spans) > limit:
        rest = prompt[spans[limit][0] :].strip()
        logging.warning("prompt %r is longer than %d tokens: %r is cut off", prompt, limit, rest)


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
def encode_tokens(text_encoder: Any, ids: Array) -> Array:
    """Encodes token ids `[b, n]` as text features `[b, n, d]`."""
    return text_encoder(ids)


@jax.jit
def encode_tokens_for_pixels(text_encoder: Any, ids: Array) -> Array:
    """Encodes token ids `[b, 77]` with a T5 encoder, `[b, 77, d]`.

    Its tokens do not attend to the padding, but the UNets of DeepFloyd IF do.
    """
    return text_encoder(ids, ids != text_encoder.config.pad_token_id)


@jax.jit
def prepare_texts(text_encoder: Any, unet: Any, ids: Array) -> Any:
    """Computes what a UNet takes from token ids `[b, n]`, see `UNet2DConditionModel.project_text`."""
    return unet.project_text(text_encoder(ids))


@jax.jit
def project_text(unet: Any, text: Array) -> Any:
    """Computes what a UNet takes from text features `[b, n, d]`, leaves `[b, ...]`."""
    return unet.project_text(text)


def precompute_unet(unet: Any, timesteps: int) -> PrecomputedUNet:
    """Returns a UNet for `diffusion.denoise` with its time projections precomputed; the weights stay in place."""
    return PrecomputedUNet(unet, _project_time(unet, jnp.arange(timesteps)))


@jax.jit
def _project_time(unet, t):
    return unet.project_time(t)


def stack_texts(batch_size: int, texts: Sequence[Any]) -> Any:
    """Stacks texts into a batch.

    Args:
      texts: pytrees with leaves `[1, ...]` in the order of samples, each negative before positive.

    Returns:
      a pytree with leaves `[batch_size, prompts, ...]`.
    """
    return jax.tree.map(lambda *a: jnp.concatenate(a).reshape(batch_size, -1, *a[0].shape[1:]), *texts)
