"""The steps at which each term is active, its weights there, and its modes of evaluation. NumPy only, on the host."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from its_jax.diffusion.feature_cache import Mode
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.errors import UserError


def term_weights(
    weights: Any,
    start_steps: Any,
    num_steps: int,
    schedule: NoiseSchedule,
    *,
    stop_steps: Any = None,
    first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Expands one weight per term into one per step: zero before the term's start step and from its stop step on.

    Args:
      weights: `[terms b]`, >= 0. Only their ratios matter.
      start_steps: `[terms b]`, >= 0: first step (not timestep) at which a term is active.
      stop_steps: `[terms b]`: first step at which it is no longer active. None means the end.
      first: the step at which denoising begins.

    Returns:
      float32 `[terms b steps]` for `Term.weights`, and bool `[terms steps]`: whether any sample of the batch needs the
      term at that step. Computed on the host, because over a sharded batch it would need communication.

    Raises:
      UserError: a negative or non-finite weight, a negative start step, or a step without any active term.
    """
    weights, start_steps = np.asarray(weights, np.float32), np.asarray(start_steps)
    stop_steps = np.full_like(start_steps, num_steps) if stop_steps is None else np.asarray(stop_steps)
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise UserError(f"weights must be finite and not negative, not {weights.tolist()}")
    if np.any(start_steps < 0):
        raise UserError(f"start steps must not be negative, not {start_steps.tolist()}")
    k = np.arange(schedule.num_train_timesteps)
    is_active = (k >= start_steps[..., None]) & (k < np.minimum(stop_steps, num_steps)[..., None])
    table = np.where(is_active, weights[..., None], np.float32(0))
    idle = np.argwhere(table.sum(0)[:, first:num_steps] == 0)
    if idle.size:
        raise UserError(
            f"the sum of weights is zero at step {first + idle[0, 1]} of {num_steps} for sample {idle[0, 0]}; "
            "let a term with a weight above 0 start by then"
        )
    return table, np.any(table, axis=1)


def select_modes(active: np.ndarray, guided: np.ndarray, cache_interval: int, modes: Sequence[Mode]) -> np.ndarray:
    """Selects how a term is evaluated at each step: 0 means not at all, n means `modes[n - 1]`.

    Args:
      active: bool `[steps]`: whether any sample needs the term.
      guided: bool `[steps]`: whether any sample needs its negative prompt.
      cache_interval: the inner layers are evaluated at every `cache_interval`-th active step (1: at all of them). In
        between, their cached output is used, unless it was computed without the negative prompt and the step needs one.

    Returns:
      int32 `[steps]`.
    """
    selected = np.zeros(len(active), np.int32)
    age, cache_has_negative = cache_interval, False
    for k in np.flatnonzero(active):
        cached = age < cache_interval and (cache_has_negative or not guided[k])
        if not cached:
            age, cache_has_negative = 0, guided[k]
        age += 1
        selected[k] = 1 + modes.index(Mode(bool(guided[k]), bool(cached)))
    return selected


def alternate(weights: np.ndarray, turns: Any, first: int = 0) -> np.ndarray:
    """Returns weights under which the terms alternate, as artists did before the paper: each step belongs to one term.

    The terms take turns in their order, each for `turns` steps. A step of an inactive term goes to the next active one.

    Args:
      weights: `[terms b steps]`, 0 where a term is inactive, see `term_weights`.
      turns: `[terms b]`, >= 1.
      first: the step at which denoising, and the first turn, begins.

    Returns:
      float32 `[terms b steps]`, 1 for the term to which the step belongs.
    """
    ends, terms = np.cumsum(turns, axis=0), np.arange(len(weights))[:, None, None]
    position = (np.arange(weights.shape[-1]) - first) % ends[-1][:, None]
    owner = (position >= ends[..., None]).sum(axis=0)
    candidates = (owner + terms) % len(terms)  # the owner, then the terms after it
    skipped = np.take_along_axis(weights > 0, candidates, axis=0).argmax(axis=0)
    return ((terms == (owner + skipped) % len(terms)) & (weights > 0)).astype(np.float32)
