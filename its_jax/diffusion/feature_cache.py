"""Evaluates a model for the prompts of a term, and caches inner features between steps (DeepCache, arXiv 2312.00858).

A model that supports caching has, besides `model(x, t, text) -> eps`, two methods:

    model.with_features(x, t, text) -> (eps, features)    evaluates all layers
    model.from_features(x, t, text, features) -> eps      evaluates only the outermost layers
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Mode(NamedTuple):
    """The way in which a model is evaluated at a step."""

    guided: bool = True  # for both prompts; otherwise for the positive one only, which is the same as s = 1
    cached: bool = False  # only the outermost layers, on features of an earlier step


def evaluate(model: Any, x: Array, t: Array, term: Any, mode: Mode, cache: Any) -> tuple[Array, Any]:
    """Predicts the noise in `x` `[b h w c]` at timestep `t` `[]` for each prompt that `mode` needs.

    Prompts are the innermost part of the model's batch, so that a sharded batch stays in place.

    Args:
      term: a `denoise.Term`.
      cache: features of an earlier step `[b prompts ...]`, or `()` if no mode of the term uses any.

    Returns:
      float32 `[b prompts h w c]`, and the cache with the features of this step.
    """
    prompts = jax.tree.leaves(term.texts)[0].shape[1]
    needed = prompts if mode.guided else 1

    def flatten(a):
        """Merges the batch with the prompts that are needed: `[b prompts ...]` -> `[b * needed ...]`."""
        return a[:, prompts - needed :].reshape(-1, *a.shape[2:])

    repeated = jnp.repeat(x, needed, axis=0)
    inputs = repeated, jnp.full(len(repeated), t), jax.tree.map(flatten, term.texts)
    if mode.cached:
        eps = model.from_features(*inputs, flatten(cache))
    elif term.uses_cache:
        eps, features = model.with_features(*inputs)
        cache = cache.at[:, prompts - needed :].set(features.reshape(len(x), needed, *features.shape[1:]))
    else:
        eps = model(*inputs)
    return eps.astype(jnp.float32).reshape(len(x), needed, *repeated.shape[1:]), cache


def empty_caches(models: Sequence[Any], terms: Sequence[Any], x: Array) -> tuple[Any, ...]:
    """Returns one zero-filled cache per term, `[b (windows) prompts ...]`, and `()` for terms that use none."""

    def empty_cache(model, term):
        if not term.uses_cache:
            return ()
        columns = term.windows.size if term.windows else x.shape[2]
        count = (len(term.windows.starts),) if term.windows else ()
        b, prompts = jax.tree.leaves(term.texts)[0].shape[:2]
        repeated = jnp.repeat(term.view.apply(x[:, :, :columns]), prompts, axis=0)
        t = jnp.zeros(len(repeated), jnp.int32)
        text = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), term.texts)
        _, features = jax.eval_shape(lambda *inputs: model.with_features(*inputs), repeated, t, text)
        return jnp.zeros((b, *count, prompts, *features.shape[1:]), features.dtype)

    return tuple(map(empty_cache, models, terms))
