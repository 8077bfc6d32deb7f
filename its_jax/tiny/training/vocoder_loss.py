"""What the vocoder is trained by: the error of its output, analysed again, and what keeps the training steady.

Black is 80 dB below white, and the error counts in decibels: a vocoder's least tremble fills what should be black.
"""

import dataclasses

import jax
import jax.numpy as jnp

from its_jax.audio.mel import log_mel
from its_jax.tiny import recipe

_QUIET = dataclasses.replace(recipe.MEL, log_min=-12.0)
_NOISE = 0.05  # nats: decoded spectrograms are not as clean as analysed ones
_LEAK = 0.3
_RATES = {"ups.0": 0.2, "ups.2": 0.1, "resblocks.2": 0.2}  # by how much black suffers from a change


def error(generator, log_mels, key):
    """Mean absolute difference, in nats, between log-mels `[b, frames, mels]` and those of the sound made of them."""
    noisy = log_mels + _NOISE * jax.random.normal(key, log_mels.shape)
    waveform = generator(jnp.clip(noisy, recipe.MEL.log_min, recipe.MEL.log_max))
    return jnp.mean(jnp.abs(floored_log_mel(waveform, log_mels) - log_mels))


def floored_log_mel(waveform, target):
    """Log-mel floored at black, so that silence is as good; where `target` is not black, the floor leaks a gradient."""
    floor = recipe.MEL.log_min
    mels = log_mel(waveform, _QUIET)
    leak = jnp.where(target > floor + 1e-3, _LEAK, 0.0)
    return jnp.maximum(mels, floor) + leak * jnp.minimum(mels - floor, 0.0)


def centred(params, sign):
    """Parameters that take black for the input's zero (`sign` 1), and back (-1).

    Log-mels are far below zero nearly everywhere, which makes the gradients of the first layer lean one way.
    """
    kernel, bias = params["conv_pre"]["kernel"][...], params["conv_pre"]["bias"]
    moved = jax.tree.map(lambda x: x, params)  # a new tree with the same leaves
    moved["conv_pre"]["bias"] = bias.replace(bias[...] + sign * recipe.MEL.log_min * kernel.sum(axis=(0, 1)))
    return moved


def rates(params):
    """Factors on the learning rate, a number for each parameter."""

    def rate(path, _):
        return _RATES.get(".".join(str(key.key) for key in path[:2]), 1.0)

    return jax.tree_util.tree_map_with_path(rate, params)
