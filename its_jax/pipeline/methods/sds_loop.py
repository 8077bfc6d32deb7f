"""The optimization loop of score distillation."""

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
    """All that a run needs to go on with the same bits; every leaf begins with `b`."""

    network: FourierImage
    frequencies: Array  # [b 2 FEATURES]
    moments: Any
    failed_at: Array  # [b] int32, first iteration whose picture was not finite, -1 if none


def initial_state(seeds: Array) -> State:
    """From uint32 seeds `[b]`; a sample depends on its own seed only."""

    def of_seed(seed):
        key, frequencies = jax.random.split(_keys(seed)[0])
        network = FourierImage(rngs=nnx.Rngs(key))
        frequencies = FEATURE_SCALE * jax.random.normal(frequencies, (2, FEATURES))
        return State(network, frequencies, _optimizer(0.0).init(network), jnp.int32(-1))

    return jax.vmap(of_seed)(seeds)


def _keys(seed):
    """For the beginning, and for the iterations."""
    return jax.random.split(jax.random.key(seed, impl="threefry2x32"))


def _optimizer(learning_rate):
    return optax.adamw(learning_rate, weight_decay=WEIGHT_DECAY)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guidance:
    """What one model is asked, and when; the model itself stands at the same place in `models`."""

    term: denoise.Term
    weight: Array  # [b]
    guidance_scale: Array  # [b]
    steps: Array  # [b 2] int32, first iteration and the one after the last
    guided_steps: Array  # [b 2], of them those with guidance


def optimize(
    models: Sequence[Any],
    guides: Sequence[Guidance],
    state: State,
    learning_rate: Array,
    seeds: Array,
    first: Array,
    last: Array,
    *,
    size: tuple[int, int],
) -> State:
    """Runs iterations first, ..., last - 1; cut into several calls it keeps its bits.

    Args:
      learning_rate: `[b]`. seeds: uint32 `[b]`. size: height and width.
    """

    def iteration(k, state):
        picture = pictures(state, size=size)
        gradient = jnp.zeros_like(picture)
        keys = jax.vmap(lambda seed: jax.random.fold_in(_keys(seed)[1], k))(seeds)
        for i, (model, guide) in enumerate(zip(models, guides, strict=True)):
            own = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
            gradient = gradient + _share(model, guide, picture, own, k)
        return _step(state, picture, gradient, learning_rate, k)

    return lax.fori_loop(first, last, iteration, state)


def pictures(state: State, *, size: tuple[int, int]) -> Array:
    """What the networks know, `[b H W]`."""
    return lax.map(lambda sample: render(*sample, *size), (state.network, state.frequencies))


def _share(model, guide, picture, keys, k):
    """Of one model in the gradient; it is not asked where it takes no part in any sample."""
    weight = jnp.where(_within(guide.steps, k), guide.weight, 0.0)
    scale = jnp.where(_within(guide.guided_steps, k), guide.guidance_scale, 1.0)

    def share():
        gradient = model.gradient(guide.term, scale, picture, keys)
        w = weight[:, None, None]
        # A weight of zero times what is not finite would still spoil the sample.
        return jnp.where(w > 0, w * gradient, 0.0)

    return lax.cond((weight > 0).any(), share, lambda: jnp.zeros_like(picture))


def _within(steps, k):
    return (steps[:, 0] <= k) & (k < steps[:, 1])


def _step(state, picture, gradient, learning_rate, k):
    height, width = picture.shape[1:]

    def of_sample(sample):
        network, frequencies, moments, gradient, learning_rate = sample
        _, pull_back = jax.vjp(lambda network: render(network, frequencies, height, width), network)
        updates, moments = _optimizer(learning_rate).update(*pull_back(gradient), moments, network)
        return optax.apply_updates(network, updates), moments

    network, moments = lax.map(of_sample, (state.network, state.frequencies, state.moments, gradient, learning_rate))
    fails = ~jnp.isfinite(picture).all(axis=(1, 2))
    failed_at = jnp.where(fails & (state.failed_at < 0), k, state.failed_at)
    return State(network, state.frequencies, moments, failed_at)
