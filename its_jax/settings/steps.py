"""When each term is active and guided, and with what weight."""

import dataclasses
from collections.abc import Mapping

from its_jax.settings.methods import METHODS
from its_jax.settings.schema import TERMS, SampleSettings


def term_prompts(settings: SampleSettings, term: str) -> list[str]:
    """Returns the negative and the positive prompt of a term; at guidance scale 1 only the positive one, because the
    negative one has no effect."""
    own = settings.terms[term]
    return [own.prompt] if own.guidance_scale == 1 else [own.negative_prompt, own.prompt]


def image_terms(settings: SampleSettings) -> list[str]:
    """Returns the terms whose images are written, see `first_of_views`."""
    return first_of_views({name: term.view for name, term in settings.terms.items()})


def first_of_views(views: Mapping[str, str]) -> list[str]:
    """Returns `image`, and the first term of each further view; `audio` has no image. `views` is by term, in their
    order."""
    by_view: dict[str, str] = {}
    for term, view in views.items():
        if term != "audio":
            by_view.setdefault(view, term)
    return list(by_view.values())


def first_step(settings: SampleSettings) -> int:
    """Returns the step at which denoising begins; `strength` leaves out the steps before it."""
    return settings.num_steps - round(settings.num_steps * settings.strength)


def single_term(settings: SampleSettings, term: str) -> SampleSettings:
    """Returns the settings with which `image` or `audio` alone is denoised in its own number of steps, as `imprint`
    does."""
    num_steps = settings.terms[term].num_steps or settings.num_steps
    return dataclasses.replace(settings, method=f"{term}_only", num_steps=num_steps)


def denoising_runs(settings: SampleSettings) -> list[SampleSettings]:
    """Returns the settings of each denoising run of a sample: one, one for each model (`imprint`), or none (`sds`)."""
    method = METHODS[settings.method]
    if method.separate_runs:
        return [single_term(settings, term) for term in TERMS]
    return [settings] if method.denoises else []


def total_steps(settings: SampleSettings) -> int:
    """Returns the number of steps, or iterations, over all denoising runs."""
    if not METHODS[settings.method].denoises:
        return settings.num_steps
    return sum(run.num_steps - first_step(run) for run in denoising_runs(settings))


def active_terms(settings: SampleSettings) -> list[str]:
    """Returns the terms whose models the method evaluates."""
    only = METHODS[settings.method].only
    return [only] if only else list(settings.terms)


def active_steps(settings: SampleSettings, term: str) -> range:
    """Returns the steps at which a term takes part, or may have its turn; an empty range if there are none."""
    if METHODS[settings.method].separate_runs:
        settings = single_term(settings, term)
    if METHODS[settings.method].only:
        return _steps(settings, 0, -1) if term in active_terms(settings) else range(0)
    return _steps(settings, settings.terms[term].start_step, settings.terms[term].stop_step)


def term_weight(settings: SampleSettings, term: str) -> float:
    """Returns the weight of a term while it is active."""
    return settings.terms[term].weight if METHODS[settings.method].weighted else 1.0


def is_active(settings: SampleSettings, term: str) -> bool:
    """Returns whether a term is active at any step."""
    return term_weight(settings, term) > 0 and len(active_steps(settings, term)) > 0


def guided_steps(settings: SampleSettings, term: str) -> range:
    """Returns the steps at which a term is guided while it is active."""
    own = settings.terms[term]
    if own.guidance_scale == 1:
        return range(0)
    if METHODS[settings.method].separate_runs:
        settings = single_term(settings, term)
    return _steps(settings, own.guidance_start_step, own.guidance_stop_step)


def always_guided(settings: SampleSettings, term: str) -> bool:
    """Returns whether a term is guided at all of its steps (or, at guidance scale 1, at none)."""
    if settings.terms[term].guidance_scale == 1:
        return True
    active, guided = active_steps(settings, term), guided_steps(settings, term)
    return not active or (guided.start <= active.start and active.stop <= guided.stop)


def _steps(settings, start, stop):
    """Returns the steps from `start` to `stop` (-1: the end) that are made."""
    num_steps = settings.num_steps
    return range(max(start, first_step(settings)), num_steps if stop < 0 else min(stop, num_steps))
