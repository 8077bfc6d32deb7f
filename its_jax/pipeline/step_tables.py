"""Settings -> the tables that the denoising program reads: solver, weights, guidance scales and modes of each step."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from its_jax.diffusion.feature_cache import Mode
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import SolverTable, solver_table
from its_jax.diffusion.term_schedule import alternate, select_modes, term_weights
from its_jax.diffusion.views import VIEWS
from its_jax.diffusion.windows import Windows
from its_jax.settings.methods import METHODS
from its_jax.settings.schema import SampleSettings
from its_jax.settings.steps import active_steps, always_guided, first_step, guided_steps, term_weight


class StepTables(NamedTuple):
    """The tables of a batch."""

    solver: SolverTable
    weights: list[np.ndarray]  # for each term float32 [b steps]
    guidance_scales: list[np.ndarray]  # for each term float32 [b steps], 1 where it is not guided
    modes: np.ndarray  # int32 [terms steps], see `select_modes`


def step_tables(schedule: NoiseSchedule, batch: Sequence[SampleSettings]) -> StepTables:
    """Computes the tables of a batch, whose settings agree in `batch_key`.

    Args:
      schedule: the noise schedule of the image model.

    Raises:
      UserError: the schedule does not allow the number of steps, or no term is active at some step.
    """
    settings, terms = batch[0], list(batch[0].terms)
    steps, first = settings.num_steps, first_step(settings)
    table = solver_table(schedule, steps, settings.solver, first)
    spans = [[active_steps(sample, term) for sample in batch] for term in terms]
    weights, active = term_weights(
        [[term_weight(sample, term) for sample in batch] for term in terms],
        [[span.start for span in of_term] for of_term in spans],
        steps,
        schedule,
        stop_steps=[[span.stop for span in of_term] for of_term in spans],
        first=first,
    )
    if METHODS[settings.method].takes_turns:
        weights = alternate(weights, [[sample.terms[term].turn for sample in batch] for term in terms], first)
        active = np.asarray(weights.any(axis=1))
    scales, modes = [], []
    for term, term_active in zip(terms, active, strict=True):
        scale = np.ones(weights.shape[1:], np.float32)
        for row, sample in zip(scale, batch, strict=True):
            row[guided_steps(sample, term)] = sample.terms[term].guidance_scale
        guided = (scale != 1).any(axis=0)
        modes.append(select_modes(term_active, guided, settings.cache_interval, term_modes(settings, term)))
        scales.append(scale)
    return StepTables(table, list(weights), scales, np.stack(modes))


def term_options(settings: SampleSettings, term: str, factor: int) -> dict[str, Any]:
    """Returns view, windows and modes of a term, the static fields of `denoise.Term`."""
    windows = None
    if settings.window or settings.wrap:
        size = (settings.window or settings.width) // factor
        windows = Windows.cover(settings.width // factor, size, settings.wrap)
    return {"view": VIEWS[settings.terms[term].view], "windows": windows, "modes": term_modes(settings, term)}


def term_modes(settings: SampleSettings, term: str) -> tuple[Mode, ...]:
    """Returns the modes in which the program can evaluate a term's model."""
    guided = (settings.terms[term].guidance_scale != 1,) if always_guided(settings, term) else (True, False)
    cached = (False, True) if settings.cache_interval > 1 else (False,)
    return tuple(itertools.starmap(Mode, itertools.product(guided, cached)))
