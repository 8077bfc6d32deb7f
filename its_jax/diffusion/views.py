"""The views through which models see the shared latent. Each only moves elements of the latent's grid.

A view is named after what its model sees. Through `rotate_180`, for example, an image model draws its subject upright,
and the subject appears upside down in the spectrogram.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class View(NamedTuple):
    """A permutation of the elements of a latent `[b h w c]`, and its inverse."""

    apply: Callable[[Array], Array]  # the shared latent -> the latent as the model sees it
    invert: Callable[[Array], Array]  # the noise that the model predicts -> noise in the shared latent


def _identity(x):
    return x


def _stack_halves(x):
    return jnp.concatenate(jnp.split(x, 2, axis=2), axis=1)


def _unstack_halves(x):
    return jnp.concatenate(jnp.split(x, 2, axis=1), axis=2)


def _flip(axis):
    flip = functools.partial(jnp.flip, axis=axis)
    return View(flip, flip)


def _rotation(quarters):
    """Returns the view that rotates counterclockwise by this many quarter turns."""
    rotate = functools.partial(jnp.rot90, axes=(1, 2))
    return View(functools.partial(rotate, k=quarters), functools.partial(rotate, k=-quarters))


VIEWS = {
    "identity": View(_identity, _identity),
    # The left half of the spectrogram is the upper half of the image, the right half its lower half.
    "block_rearrange": View(_stack_halves, _unstack_halves),
    "flip_horizontal": _flip(2),
    "flip_vertical": _flip(1),
    "rotate_90": _rotation(1),
    "rotate_180": _rotation(2),
    "rotate_270": _rotation(3),
}
