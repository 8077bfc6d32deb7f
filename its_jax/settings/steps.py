"""When each term is active and guided, and with what weight."""

from collections.abc import Mapping
from typing import Any

from its_jax.settings.schema import TERMS, term_names

SINGLE_TERM_METHODS = {"image_only": "image", "audio_only": "audio"}


def term_prompts(job: Mapping[str, Any], term: str) -> list[str]:
    """Negative and positive prompt of a term; at guidance scale 1 the negative one is of no effect, and left out."""
    keys = ("prompt",) if job[term]["guidance_scale"] == 1 else ("negative_prompt", "prompt")
    return [job[term][key] for key in keys]


def image_terms(job: Mapping[str, Any]) -> list[str]:
    """The terms whose picture is written: `image`, and for each view that is not seen yet the first other one."""
    by_view: dict[str, str] = {}
    for term in term_names(job):
        if term != "audio":
            by_view.setdefault(job[term]["view"], term)
    return list(by_view.values())


def first_step(job: Mapping[str, Any]) -> int:
    """The step at which denoising begins: the first, or what `strength` leaves out."""
    return job["num_steps"] - round(job["num_steps"] * job["strength"])


def single_term(job: Mapping[str, Any], term: str) -> Mapping[str, Any]:
    """The job in which `image` or `audio` alone takes part, at its own number of steps: what an imprint is made of."""
    own = job[term]["num_steps"] or job["num_steps"]
    return {**job, "method": f"{term}_only", "num_steps": own}


def denoising_runs(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The jobs that are denoised for this one: itself, those that an imprint is made of, or (`sds`) none."""
    if job["method"] == "imprint":
        return [single_term(job, term) for term in TERMS]
    return [] if job["method"] == "sds" else [job]


def total_steps(job: Mapping[str, Any]) -> int:
    """How many steps, or iterations, are made."""
    if job["method"] == "sds":
        return job["num_steps"]
    return sum(run["num_steps"] - first_step(run) for run in denoising_runs(job))


def active_terms(job: Mapping[str, Any]) -> list[str]:
    """The terms that the job's method asks."""
    return [SINGLE_TERM_METHODS[job["method"]]] if job["method"] in SINGLE_TERM_METHODS else term_names(job)


def active_steps(job: Mapping[str, Any], term: str) -> range:
    """The steps at which a term takes part, or may have its turn; none is an empty range."""
    if job["method"] == "imprint":
        job = single_term(job, term)
    if job["method"] in SINGLE_TERM_METHODS:
        return _steps(job, 0, -1) if term in active_terms(job) else range(0)
    return _steps(job, job[term]["start_step"], job[term]["stop_step"])


def term_weight(job: Mapping[str, Any], term: str) -> float:
    """That of a term at these steps."""
    return 1.0 if job["method"] in (*SINGLE_TERM_METHODS, "imprint") else job[term]["weight"]


def is_active(job: Mapping[str, Any], term: str) -> bool:
    """Whether a term has a say at any step."""
    return term_weight(job, term) > 0 and len(active_steps(job, term)) > 0


def guided_steps(job: Mapping[str, Any], term: str) -> range:
    """The steps at which a term that takes part is pushed away from its negative prompt."""
    if job[term]["guidance_scale"] == 1:
        return range(0)
    if job["method"] == "imprint":
        job = single_term(job, term)
    return _steps(job, job[term]["guidance_start_step"], job[term]["guidance_stop_step"])


def always_guided(job: Mapping[str, Any], term: str) -> bool:
    """Whether a term is guided at all of its steps (or, at guidance scale 1, at none)."""
    if job[term]["guidance_scale"] == 1:
        return True
    part, guided = active_steps(job, term), guided_steps(job, term)
    return not part or (guided.start <= part.start and part.stop <= guided.stop)


def _steps(job, start, stop):
    return range(max(start, first_step(job)), job["num_steps"] if stop < 0 else min(stop, job["num_steps"]))
