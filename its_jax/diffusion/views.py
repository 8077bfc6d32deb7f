"""Views: how a model sees the latent that all share. Each only moves elements of the latent's grid.

A view is told by what its model sees: through `rotate_180` an image model draws its subject upright, and in the
spectrogram it stands upside down.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class View(NamedTuple):
    """The latent `[b h w c]` as a model sees it, and the way back for the noise that it predicts."""

    apply: Callable[[Array], Array]
    invert: Callable[[Array], Array]


def _unchanged(x):
    return x


def _stack_halves(x):
    return jnp.concatenate(jnp.split(x, 2, axis=2), axis=1)


def _unstack_halves(x):
    return jnp.concatenate(jnp.split(x, 2, axis=1), axis=2)


def _flip(axis):
    flip = functools.partial(jnp.flip, axis=axis)
    return View(flip, flip)


def _rotation(quarters):
    """Counter-clockwise, to what the model sees."""
    return View(
        functools.partial(jnp.rot90, k=quarters, axes=(1, 2)), functools.partial(jnp.rot90, k=-quarters, axes=(1, 2))
    )


VIEWS = {
    "identity": View(_unchanged, _unchanged),
    # The left half of the spectrogram is the picture's upper half, the right half its lower.
    "block_rearrange": View(_stack_halves, _unstack_halves),
    "flip_horizontal": _flip(2),
    "flip_vertical": _flip(1),
    "rotate_90": _rotation(1),
    "rotate_180": _rotation(2),
    "rotate_270": _rotation(3),
}
