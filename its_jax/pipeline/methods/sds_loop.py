"""The optimization loop of score distillation (SDS; DreamFusion, arXiv 2209.14988).

Each sample is a small network that renders a gray image. At each iteration each model receives the image with noise
added and returns the gradient of its loss; AdamW follows the weighted sum. The numbers are those of the authors of
Images that Sound, who use the method as a baseline.

    b        samples; parameters, statistics and moments are each sample's own
    H W      pixels of the spectrogram
    z        [b h w c] the scaled latent of the image, sampled from the encoder's posterior
    t        [b] training timestep, drawn at each iteration

A guide has a method `gradient(term, scale, image, keys)` that returns `[b H W]`, see `sds_latent` and `sds_pixel`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array, lax

from its_jax.diffusion import denoise
from its_jax.pipeline.methods.neural_image import FEATURE_SCALE, FEATURES, FourierImage, render

WEIGHT_DECAY = 1e-3


class State(NamedTuple):
    """Everything that a run needs to continue with the same bits; every leaf begins with the batch axis."""

    network: FourierImage
    frequencies: Array  # [b 2 FEATURES]
    moments: Any
    failed_at: Array  # [b] int32, first iteration whose image was not finite, -1 if none


def initial_state(seeds: Array) -> State:
    """Returns the state before the first iteration, from uint32 seeds `[b]`. A sample depends on its own seed only."""

    def init(seed):
        key, frequencies = jax.random.split(_keys(seed)[0])
        network = FourierImage(rngs=nnx.Rngs(key))
        frequencies = FEATURE_SCALE * jax.random.normal(frequencies, (2, FEATURES))
        return State(network, frequencies, _optimizer(0.0).init(network), jnp.int32(-1))

    return jax.vmap(init)(seeds)


def _keys(seed):
    """Returns one key for the initial state and one for the iterations."""
    return jax.random.split(jax.random.key(seed, impl="threefry2x32"))


def _optimizer(learning_rate):
    return optax.adamw(learning_rate, weight_decay=WEIGHT_DECAY)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guidance:
    """The contribution of one model, and when it is active; its guide stands at the same place in `guides`."""

    term: denoise.Term
    weight: Array  # [b]
    guidance_scale: Array  # [b]
    steps: Array  # [b 2] int32, the first iteration and the one after the last
    guided_steps: Array  # [b 2] int32, the same for guidance


def optimize(
    guides: Sequence[Any],
    guidances: Sequence[Guidance],
    state: State,
    learning_rate: Array,
    seeds: Array,
    first: Array,
    last: Array,
    *,
    size: tuple[int, int],
) -> State:
    """Runs iterations first, ..., last - 1. Splitting a run into several calls does not change the result.

    Args:
      learning_rate: `[b]`. seeds: uint32 `[b]`. size: height and width.
    """

    def iteration(k, state):
        image = images(state, size=size)
        gradient = jnp.zeros_like(image)
        keys = jax.vmap(lambda seed: jax.random.fold_in(_keys(seed)[1], k))(seeds)
        for i, (guide, guidance) in enumerate(zip(guides, guidances, strict=True)):
            own = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
            gradient = gradient + _share(guide, guidance, image, own, k)
        return _step(state, image, gradient, learning_rate, k)

    return lax.fori_loop(first, last, iteration, state)


def images(state: State, *, size: tuple[int, int]) -> Array:
    """Renders the images of all samples, `[b H W]` in [0, 1]."""
    height, width = size
    return lax.map(lambda sample: render(sample[0], sample[1], height, width), (state.network, state.frequencies))


def _share(guide, guidance, image, keys, k):
    """Computes one model's share of the gradient; the model is not evaluated if no sample needs it."""
    weight = jnp.where(_within(guidance.steps, k), guidance.weight, 0.0)
    scale = jnp.where(_within(guidance.guided_steps, k), guidance.guidance_scale, 1.0)

    def share():
        gradient = guide.gradient(guidance.term, scale, image, keys)
        w = weight[:, None, None]
        # A weight of zero times a non-finite gradient would still spoil the sample.
        return jnp.where(w > 0, w * gradient, 0.0)

    return lax.cond((weight > 0).any(), share, lambda: jnp.zeros_like(image))


def _within(steps, k):
    return (steps[:, 0] <= k) & (k < steps[:, 1])


def _step(state, image, gradient, learning_rate, k):
    height, width = image.shape[1:]

    def update(sample):
        network, frequencies, moments, gradient, learning_rate = sample
        _, pull_back = jax.vjp(lambda network: render(network, frequencies, height, width), network)
        updates, moments = _optimizer(learning_rate).update(*pull_back(gradient), moments, network)
        return optax.apply_updates(network, updates), moments

    network, moments = lax.map(update, (state.network, state.frequencies, state.moments, gradient, learning_rate))
    fails = ~jnp.isfinite(image).all(axis=(1, 2))
    failed_at = jnp.where(fails & (state.failed_at < 0), k, state.failed_at)
    return State(network, state.frequencies, moments, failed_at)
