"""Splits images `[b h w c]` into gray and color, as Factorized Diffusion does (arXiv 2404.11615).

L(x)   the gray: the mean over channels, on each of them
AB(x)  the color: the rest, x - L(x)
"""

import jax.numpy as jnp
from jax import Array

_EPSILON = 1e-12  # avoids a division by zero


def gray(x: Array) -> Array:
    """Computes L(x) with one channel, `[b h w 1]`, which broadcasts to all of them."""
    return x.mean(axis=-1, keepdims=True)


def chroma(x: Array) -> Array:
    """Computes AB(x)."""
    return x - gray(x)


def with_gray(x: Array, other: Array) -> Array:
    """Computes AB(x) + L(other)."""
    return chroma(x) + gray(other)


def clip_to_gamut(g: Array, image: Array) -> Array:
    """Computes g + a AB(image), with the largest a in [0, 1] of each pixel that keeps all channels in [0, 1].

    The mean of the channels is therefore g for any image; black and white pixels get no color. Rounding to 8 bits
    changes each channel, and hence their mean, by half a level at most.

    Args:
      g: `[b h w 1]` in [0, 1].
      image: `[b h w 3]`, of which only the colors count.

    Returns:
      `[b h w 3]` in [0, 1].
    """
    ab = chroma(image)
    room = jnp.where(ab > 0, 1 - g, g)  # the distance to the end of the range in the direction of the color
    a = jnp.minimum(1, room / jnp.maximum(jnp.abs(ab), _EPSILON)).min(axis=-1, keepdims=True)
    return jnp.clip(g + a * ab, 0, 1)
