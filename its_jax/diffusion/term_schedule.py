"""Which terms take part at which steps, with what weight, and how each is evaluated there. NumPy only, on the host."""

from collections.abc import Sequence

import numpy as np

from its_jax.diffusion.denoise import Mode
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.errors import UserError


def term_weights(
    weights, start_steps, num_steps: int, schedule: NoiseSchedule, *, stop_steps=None, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Expands one weight per term into one per step: zero before the term's start step and from its stop step on.

    Args:
      weights: `[terms b]`, >= 0. Only their ratios matter.
      start_steps: `[terms b]`, >= 0: first step (not timestep) at which a term takes part.
      stop_steps: `[terms b]`: first step at which it no longer does. None means the end.
      first: the step at which denoising begins.

    Returns:
      float32 `[terms b steps]` for `Term.weights`, and bool `[terms steps]`: whether any sample of the batch needs the
      term at that step. Computed on the host, because over a sharded batch it would need communication.

    Raises:
      UserError: a negative or non-finite weight, a negative start step, or a step without any term.
    """
    weights, start_steps = np.asarray(weights, np.float32), np.asarray(start_steps)
    stop_steps = np.full_like(start_steps, num_steps) if stop_steps is None else np.asarray(stop_steps)
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise UserError(f"weights must be finite and not negative, not {weights.tolist()}")
    if np.any(start_steps < 0):
        raise UserError(f"start steps must not be negative, not {start_steps.tolist()}")
    k = np.arange(schedule.num_train_timesteps)
    takes_part = (k >= start_steps[..., None]) & (k < np.minimum(stop_steps, num_steps)[..., None])
    table = np.where(takes_part, weights[..., None], np.float32(0))
    idle = np.argwhere(table.sum(0)[:, first:num_steps] == 0)
    if idle.size:
        raise UserError(
            f"the sum of weights is zero at step {first + idle[0, 1]} of {num_steps} for sample {idle[0, 0]}; "
            "let a term with a weight above 0 start by then"
        )
    return table, table.any(axis=1)


def select_modes(active: np.ndarray, guided: np.ndarray, cache_interval: int, modes: Sequence[Mode]) -> np.ndarray:
    """Selects how a term is evaluated at each step: 0 is not at all, n is `modes[n - 1]`.

    Args:
      active, guided: bool `[steps]`: whether any sample needs the term, and its negative prompt.
      cache_interval: every how many of its steps the inner layers are evaluated (1: always). In between, their cached
        output is used, unless it was computed without the negative prompt and the step needs one.
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


def alternate(weights: np.ndarray, turns, first: int = 0) -> np.ndarray:
    """Weights under which the terms alternate: of each step one has all, as artists did before the paper.

    In their order terms have `turns` steps in a row. One that takes no part leaves its step to the next that does.

    Args:
      weights: `[terms b steps]`, 0 where a term takes no part, see `denoise.term_weights`.
      turns: `[terms b]` >= 1. first: the step at which denoising begins, and the first turn.

    Returns:
      float32 `[terms b steps]`, 1 for the term whose turn it is.
    """
    ends, terms = np.cumsum(turns, axis=0), np.arange(len(weights))[:, None, None]
    place = (np.arange(weights.shape[-1]) - first) % ends[-1][:, None]
    owner = (place >= ends[..., None]).sum(axis=0)
    takers = (owner + terms) % len(terms)  # in the order in which a step is offered
    taken = np.take_along_axis(weights > 0, takers, axis=0).argmax(axis=0)
    return ((terms == (owner + taken) % len(terms)) & (weights > 0)).astype(np.float32)
