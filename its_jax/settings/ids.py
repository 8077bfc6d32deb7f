"""Ids of samples, and the keys of what samples share."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from its_jax.settings.schema import METHOD_DEFAULTS, SAMPLE_TYPES, TERM_METHOD_DEFAULTS, TERMS, term_names
from its_jax.settings.steps import (
    SINGLE_TERM_METHODS,
    active_steps,
    always_guided,
    denoising_runs,
    guided_steps,
    term_prompts,
    term_weight,
)

_ONE_PROGRAM = ("fused", *SINGLE_TERM_METHODS, "alternating")  # these differ in weights alone
_TRACED = ("num_steps", "solver", "strength", "cache_interval", "noise")  # no part of a program, but of a batch
_ALONE = ("seed", "crop_image")  # of one sample in a batch


def program_key(job: Mapping[str, Any]) -> dict[str, Any]:
    """What jobs must share to share compiled programs, and what they start from."""
    of_terms = {
        term: (job[term]["model"], job[term]["view"], len(term_prompts(job, term)), always_guided(job, term))
        for term in term_names(job)
    }
    own = {key: job[key] for key in (*SAMPLE_TYPES, "init_sha256") if key not in (*_TRACED, *_ALONE, *METHOD_DEFAULTS)}
    of_method = {} if job["method"] in _ONE_PROGRAM else {"method": job["method"]}
    return own | of_terms | {"cached": job["cache_interval"] > 1} | of_method


def batch_key(job: Mapping[str, Any]) -> dict[str, Any]:
    """What jobs must share to share a batch: `program`, a solver table and the source of their noise; and, where layers
    serve several steps, at which steps each term takes part and is guided, for from these it follows when they do. Of
    methods, what says which terms are evaluated at a step, so that no term is for other samples' sake."""
    own = {key: job[key] for key in (*_TRACED, "method")}
    own["runs"] = tuple(run["num_steps"] for run in denoising_runs(job))
    if job["method"] == "alternating":
        own["turns"] = tuple(
            (job[term]["turn"], term_weight(job, term) > 0, active_steps(job, term)) for term in term_names(job)
        )
    if job["cache_interval"] > 1:
        own |= {
            f"{term}.steps": (term_weight(job, term) > 0, active_steps(job, term), guided_steps(job, term))
            for term in term_names(job)
        }
    return program_key(job) | own


def sample_id(job: Mapping[str, Any]) -> str:
    """Words of the prompts and the seed for people, and 10 hexadecimal digits over all settings.

    Safe as a file name on any system; equal settings give equal ids.
    """
    return sample_ids(job, [job["seed"]])[0]


def sample_ids(job: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """Those of jobs that differ in their seed alone."""
    # What a file holds counts, by `init_sha256`, not where it lies.
    placeless = _without_defaults(job) | {key: "file" for key in ("init_image", "init_audio") if job[key]} | {"seed": 0}
    # Quotes in a prompt are escaped, so that no prompt holds this.
    before, _, after = json.dumps(placeless, sort_keys=True).partition('"seed": 0')
    words = [word for term in TERMS if (word := _slug(job[term]["prompt"]))]
    digests = (hashlib.sha256(f'{before}"seed": {seed}{after}'.encode()).hexdigest()[:10] for seed in seeds)
    return ["_".join([*words, str(seed), digest]) for seed, digest in zip(seeds, digests, strict=True)]


def _without_defaults(job):
    """Without the settings of methods that are as they were before there were any."""
    told = _without(job, METHOD_DEFAULTS)
    return told | {term: _without(told[term], TERM_METHOD_DEFAULTS) for term in term_names(told)}


def _without(settings, usual):
    return {name: value for name, value in settings.items() if name not in usual or value != usual[name]}


def _slug(text, length=28):
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:length].strip("-")
