"""Evaluating a model for negative and positive prompts, and from_features its inner features between steps (DeepCache,
arXiv 2312.00858).

A model with a cache has, besides `model(x, t, text) -> eps`, `model.with_features(x, t, text) -> (eps, features)` and
`model.from_features(x, t, text, features) -> eps`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Mode(NamedTuple):
    """How a model is evaluated at a step."""

    guided: bool = True  # with both prompts, or the positive one alone (the same as s = 1)
    cached: bool = False  # the outermost layers only, with the inner features of an earlier step


def evaluate(model: Callable, x: Array, t: Array, term, mode: Mode, cache: Any) -> tuple[Array, Any]:
    """Predicts the noise in `x` `[b h w c]` for each prompt that `mode` needs, float32 `[b prompts h w c]`.

    Prompts are the innermost part of the model's batch, so that a sharded batch stays in place.
    """
    prompts = jax.tree.leaves(term.texts)[0].shape[1]
    needed = prompts if mode.guided else 1

    def merged(a):
        return a[:, prompts - needed :].reshape(-1, *a.shape[2:])

    seen = jnp.repeat(x, needed, axis=0)
    inputs = seen, jnp.full(len(seen), t), jax.tree.map(merged, term.texts)
    if mode.cached:
        eps = model.from_features(*inputs, merged(cache))
    elif term.uses_cache:
        eps, features = model.with_features(*inputs)
        cache = cache.at[:, prompts - needed :].set(features.reshape(len(x), needed, *features.shape[1:]))
    else:
        eps = model(*inputs)
    return eps.astype(jnp.float32).reshape(len(x), needed, *seen.shape[1:]), cache


def empty_caches(models: Sequence[Callable], terms: Sequence, x: Array) -> tuple[Any, ...]:
    """One zero-filled cache per term, `[b (windows) prompts ...]`; `()` for terms that use none."""

    def of_term(model, term):
        if not term.uses_cache:
            return ()
        columns = term.windows.size if term.windows else x.shape[2]
        count = (len(term.windows.starts),) if term.windows else ()
        b, prompts = jax.tree.leaves(term.texts)[0].shape[:2]
        seen = jnp.repeat(term.view.apply(x[:, :, :columns]), prompts, axis=0)
        text = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), term.texts)
        _, features = jax.eval_shape(lambda *a: model.with_features(*a), seen, jnp.zeros(len(seen), jnp.int32), text)
        return jnp.zeros((b, *count, prompts, *features.shape[1:]), features.dtype)

    return tuple(map(of_term, models, terms))
