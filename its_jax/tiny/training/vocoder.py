"""Trains the vocoder, a HiFi-GAN generator without the adversary: the spectrogram of its output must equal its input.

Black is 80 dB below white and the error counts in decibels, so the faintest noise of a vocoder fills places that should
be black.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from its_jax.audio.mel import image_to_mel, log_mel
from its_jax.models.hifigan import Generator
from its_jax.pipeline.decoding import vocode
from its_jax.tiny.data import items
from its_jax.tiny.recipe import latent
from its_jax.tiny.recipe.canvas import MEL
from its_jax.tiny.training import crops, vocoder_init
from its_jax.tiny.training.loop import Params, Result, fit
from its_jax.tiny.training.schedule import STAGES

TRAIN_ITEMS, HELD_OUT_ITEMS = 1500, 120
CROP = 64  # frames, enough for the receptive field of about 30 frames on either side
_BATCH = 12  # canvases that are vocoded at once
_QUIET = dataclasses.replace(MEL, log_min=-12.0)
_NOISE = 0.05  # nats; decoded spectrograms are not as clean as computed ones
_LEAK = 0.3
# Factors on the learning rates of layers, by how much a change disturbs black.
_RATES = {"ups.0": 0.2, "ups.2": 0.1, "resblocks.2": 0.2}


def initial_vocoder() -> Generator:
    """Returns the vocoder before training: a bank of oscillators."""
    generator = latent.random_vocoder()
    vocoder_init.initialize(generator, MEL)
    return generator


def train(workdir: Path) -> Result:
    """Trains the vocoder."""
    stage, canvases = STAGES["vocoder"], crops.make_canvases("train", TRAIN_ITEMS)
    graph, params = nnx.split(initial_vocoder())

    def batches(step):
        rng = items.generator("vocoder", "train", step)
        return np.stack([crops.random_crop(rng, *canvases, CROP) for _ in range(stage.batch)])

    def batch_loss(params, batch, key):
        generator = nnx.merge(graph, uncenter(params))
        return loss(generator, image_to_mel(batch / 255.0, MEL), key)

    params, seconds = fit(
        batch_loss, center(params), batches, stage, workdir / "vocoder", rates=_learning_rate_factors(params)
    )
    params = uncenter(params)
    return Result(params, seconds, _held_out(nnx.merge(graph, params)))


def loss(generator: Generator, log_mels: Array, key: Array) -> Array:
    """Computes the mean absolute difference, in nats, between log-mels and those of the generated waveform.

    Args:
      log_mels: `[b, frames, mels]`.
    """
    noisy = log_mels + _NOISE * jax.random.normal(key, log_mels.shape)
    waveform = generator(jnp.clip(noisy, MEL.log_min, MEL.log_max))
    return jnp.mean(jnp.abs(floored_log_mel(waveform, log_mels) - log_mels))


def floored_log_mel(waveform: Array, target: Array) -> Array:
    """Computes log-mels floored at black, so that silence matches black.

    Where `target` is not black, the floor leaks a gradient.
    """
    floor = MEL.log_min
    mels = log_mel(waveform, _QUIET)
    leak = jnp.where(target > floor + 1e-3, _LEAK, 0.0)
    return jnp.maximum(mels, floor) + leak * jnp.minimum(mels - floor, 0.0)


def center(params: Params) -> Params:
    """Returns parameters of the same vocoder for inputs in which black is zero.

    Log-mels are far below zero nearly everywhere, which biases the gradients of the first layer.
    """
    return _shift_input(params, MEL.log_min)


def uncenter(params: Params) -> Params:
    """Undoes `center`."""
    return _shift_input(params, -MEL.log_min)


def _shift_input(params: Params, offset: float) -> Params:
    """Returns parameters of the same vocoder for inputs that are `offset` lower."""
    kernel, bias = params["conv_pre"]["kernel"][...], params["conv_pre"]["bias"]
    moved = jax.tree.map(lambda x: x, params)  # a new tree with the same leaves
    moved["conv_pre"]["bias"] = bias.replace(bias[...] + offset * kernel.sum(axis=(0, 1)))
    return moved


def _learning_rate_factors(params: Params) -> Params:
    """Returns a factor on the learning rate for each parameter."""

    def factor(path, _):
        return _RATES.get(".".join(str(key.key) for key in path[:2]), 1.0)

    return jax.tree_util.tree_map_with_path(factor, params)


def _held_out(generator: Generator) -> dict[str, float]:
    """Returns the errors of held-out canvases, by this vocoder and by Griffin-Lim."""
    figures = {}
    held_out = crops.make_canvases("held_out", HELD_OUT_ITEMS)
    for name, canvases in zip(("pictures", "spectrograms"), held_out, strict=True):
        for method in ("hifigan", "griffin_lim"):
            figures[f"{method}_error_{name}"] = _resynthesis_error(generator, canvases / np.float32(255), method)
    return figures


def _resynthesis_error(generator: Any, canvases: np.ndarray, method: str) -> float:
    """Returns the mean absolute difference between canvases and the spectrograms of their sound.

    Args:
      canvases: `[n, h, w]` in [0, 1], n a multiple of 12.
    """
    blocks = np.split(canvases, len(canvases) // _BATCH)
    again = [items.to_spectrogram(vocode(generator, block, MEL, method)) for block in blocks]
    return round(float(np.mean(np.abs(np.concatenate(again) - canvases))), 4)
