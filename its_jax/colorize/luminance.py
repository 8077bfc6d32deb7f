"""The two parts of a picture `[b h w c]` that colouring tells apart (Factorized Diffusion, arXiv 2404.11615).

L(x)   its grey: the mean over channels, on each of them
AB(x)  its colours: all else, x - L(x)
"""

import jax.numpy as jnp
from jax import Array

_LEAST = 1e-12  # of what is divided by


def gray(x: Array) -> Array:
    """L(x), on one channel `[b h w 1]`: it is added to all of them."""
    return x.mean(axis=-1, keepdims=True)


def chroma(x: Array) -> Array:
    """AB(x)."""
    return x - gray(x)


def with_gray(x: Array, other: Array) -> Array:
    """AB(x) + L(other)."""
    return chroma(x) + gray(other)


def clip_to_gamut(g: Array, picture: Array) -> Array:
    """g + a AB(picture), with the largest a in [0, 1] for each pixel at which all channels are in [0, 1].

    So the channels' mean is g, whatever the colours are: black and white have none. Rounded to 8 bits, each channel and
    hence their mean is within half a level of that.

    Args:
      g: `[b h w 1]` in [0, 1]. picture: `[b h w 3]`.
    """
    ab = chroma(picture)
    room = jnp.where(ab > 0, 1 - g, g)  # up to the end of the range that the colour leads to
    a = jnp.minimum(1, room / jnp.maximum(jnp.abs(ab), _LEAST)).min(axis=-1, keepdims=True)
    return jnp.clip(g + a * ab, 0, 1)
