"""Contrastive training (Radford et al. 2021): an embedding must be nearest to that of its own caption.

A batch consists of rounds with one item of each class, so that no two captions of a round mean the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from its_jax.pipeline import prompts
from its_jax.tiny.data import items
from its_jax.tiny.data.items import CLASSES

_HIGHEST_SCALE = math.log(100)  # Radford et al. 2021, section 2.5


def rounds(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Draws indices `[size]` of `count` items, where item i has class i mod 12. Both are multiples of 12."""
    return CLASSES * rng.integers(count // CLASSES, size=size) + items.labels(size)


def info_nce(embeddings: Array, texts: Array, item_scale: Array, text_scale: Array) -> Array:
    """Computes the mean cross-entropy of each item's text in its round, and of each text's item.

    Args:
      embeddings, texts: unit vectors `[12 * rounds, d]`. Those of the same row form a pair.
      item_scale, text_scale: logarithms of the scales of the logits, for the choice of a text and that of an item.
    """
    embeddings, texts = (x.reshape(-1, CLASSES, x.shape[-1]) for x in (embeddings, texts))
    cosines = jnp.einsum("rid,rjd->rij", embeddings, texts)

    def cross_entropy(cosines, scale):
        log_probabilities = jax.nn.log_softmax(jnp.exp(jnp.minimum(scale, _HIGHEST_SCALE)) * cosines)
        return -jnp.mean(jnp.diagonal(log_probabilities, axis1=1, axis2=2))

    return (cross_entropy(cosines, item_scale) + cross_entropy(cosines.swapaxes(1, 2), text_scale)) / 2


def embed(function: Callable[[Any, Array], Array], model: Any, x: np.ndarray) -> np.ndarray:
    """Evaluates `function(model, block)` for blocks of x `[n, ...]`, n a multiple of 12, and returns `[n, d]`."""
    size = next(size for size in (120, 12) if len(x) % size == 0)
    compiled = jax.jit(function)
    return np.concatenate([compiled(model, block) for block in np.split(x, len(x) // size)])


def embed_captions(
    model: Any,
    tokenizer: Any,
    caption: Callable[[str, np.random.Generator], str],
    classes: Sequence[str],
    count: int,
) -> np.ndarray:
    """Draws a caption of each class for each of `count` items, and returns their embeddings `[count, 12, d]`."""
    rng = items.generator("captions", "contrast_held_out", 0)
    captions = [caption(name, rng) for _ in range(count) for name in classes]
    texts = embed(lambda model, ids: model.embed_text(ids), model, prompts.tokenize(tokenizer, captions))
    return texts.reshape(count, CLASSES, -1)


def retrieval(embeddings: np.ndarray, texts: np.ndarray) -> float:
    """Returns the share of items that are nearest to their own text.

    Args:
      embeddings: `[n, d]`, where item i has class i mod 12.
      texts: `[n, 12, d]`, one of each class.
    """
    nearest = np.argmax(np.einsum("nd,ncd->nc", embeddings, texts), axis=1)
    return round(float(np.mean(nearest == items.labels(len(embeddings)))), 4)
