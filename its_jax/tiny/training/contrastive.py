"""Contrastive training (Radford et al. 2021): an embedding lies nearest to that of its own caption.

Items come in rounds of one of each class, so that no two captions of a round mean the same.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.pipeline import prompts
from its_jax.tiny.data import items as data_items

CLASSES = len(data_items.SUBJECTS)
_HIGHEST_SCALE = math.log(100)  # Radford et al. 2021, section 2.5


def rounds(rng, count, size):
    """Indices `[size]` of `count` items, of which item i is of class i mod 12; both are multiples of 12."""
    return CLASSES * rng.integers(count // CLASSES, size=size) + data_items.labels(size)


def info_nce(items, texts, item_scale, text_scale):
    """Mean cross-entropy of each item's text among those of its round, and of each text's item.

    Args:
      items, texts: embeddings `[12 * rounds, d]` of length 1; those of the same row belong together.
      item_scale, text_scale: of the logits, in the logarithm, where an item chooses and where a text does.
    """
    items, texts = (x.reshape(-1, CLASSES, x.shape[-1]) for x in (items, texts))
    cosines = jnp.einsum("rid,rjd->rij", items, texts)

    def loss(cosines, scale):
        chances = jax.nn.log_softmax(jnp.exp(jnp.minimum(scale, _HIGHEST_SCALE)) * cosines)
        return -jnp.mean(jnp.diagonal(chances, axis1=1, axis2=2))

    return (loss(cosines, item_scale) + loss(cosines.swapaxes(1, 2), text_scale)) / 2


def embedded(embed, model, x):
    """`embed(model, block)` of blocks of x `[n, ...]`, n a multiple of 12 -> `[n, d]`."""
    size = next(size for size in (120, 12) if len(x) % size == 0)
    embed = jax.jit(embed)
    return np.concatenate([embed(model, block) for block in np.split(x, len(x) // size)])


def texts_of_all(model, tokenizer, source, classes, count):
    """Embeddings `[count, 12, d]` of a caption of each class for each item, drawn for it."""
    rng = data_items.generator("captions", "contrast_held_out", 0)
    captions = [source.caption(name, rng) for _ in range(count) for name in classes]
    texts = embedded(lambda model, ids: model.embed_text(ids), model, prompts.tokenize(tokenizer, captions))
    return texts.reshape(count, CLASSES, -1)


def retrieval(items, texts):
    """The share of items `[n, d]`, of which item i is of class i mod 12, that are nearest to their own text.

    Args:
      texts: `[n, 12, d]`, of each class.
    """
    nearest = np.argmax(np.einsum("nd,ncd->nc", items, texts), axis=1)
    return round(float(np.mean(nearest == data_items.labels(len(items)))), 4)
