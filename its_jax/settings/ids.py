"""Ids of samples, and the keys of what samples share."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from its_jax.settings.methods import METHODS
from its_jax.settings.schema import METHOD_DEFAULTS, SAMPLE_TYPES, TERM_METHOD_DEFAULTS, TERMS, SampleSettings
from its_jax.settings.steps import (
    active_steps,
    always_guided,
    denoising_runs,
    guided_steps,
    term_prompts,
    term_weight,
)

_PER_BATCH = ("num_steps", "solver", "strength", "cache_interval", "noise")  # not in a program's key, but in a batch's
_PER_SAMPLE = ("seed", "crop_image")  # samples of one batch may differ in these
_NOT_IN_PROGRAM = {*_PER_BATCH, *_PER_SAMPLE, *METHOD_DEFAULTS}
_IN_PROGRAM = [name for name in (*SAMPLE_TYPES, "init_sha256") if name not in _NOT_IN_PROGRAM]
_INIT_FILES = ("init_image", "init_audio")
# The values of all samples: files and what is kept of them are data. The names remain, because the key of a program
# names the file that records the batches of a sweep.
_INIT_DATA = {"keep": "", "init_sha256": ""}


def program_key(settings: SampleSettings) -> dict[str, Any]:
    """Returns what samples must have in common to share compiled programs.

    Of a file to start from, that is whether there is one.
    """
    terms = {
        name: (term.model, term.view, len(term_prompts(settings, name)), always_guided(settings, name))
        for name, term in settings.terms.items()
    }
    own = {name: getattr(settings, name) for name in _IN_PROGRAM} | _init_files(settings) | _INIT_DATA
    program = METHODS[settings.method].program_name
    method = {"method": program} if program else {}
    return own | terms | {"cached": settings.cache_interval > 1} | method


def batch_key(settings: SampleSettings) -> dict[str, Any]:
    """Returns what samples must have in common to share a batch.

    That is `program_key`, the solver's table, the source of the noise and the method. With cached features it is also
    the steps at which each term is active and guided, because they decide when the cache is filled. With turns it is
    also the turns, because a term is evaluated for the whole batch or not at all.
    """
    own = {name: getattr(settings, name) for name in (*_PER_BATCH, "method")}
    own["runs"] = tuple(run.num_steps for run in denoising_runs(settings))
    active = {term: (term_weight(settings, term) > 0, active_steps(settings, term)) for term in settings.terms}
    if METHODS[settings.method].takes_turns:
        own["turns"] = tuple((settings.terms[term].turn, *active[term]) for term in settings.terms)
    if settings.cache_interval > 1:
        own |= {f"{term}.steps": (*active[term], guided_steps(settings, term)) for term in settings.terms}
    return program_key(settings) | own


def sample_id(settings: SampleSettings) -> str:
    """Returns words of the prompts and the seed for people, and 10 hexadecimal digits over all settings.

    It is safe as a file name on any system; equal settings give equal ids.
    """
    return sample_ids(settings, [settings.seed])[0]


def sample_ids(settings: SampleSettings, seeds: Sequence[int]) -> list[str]:
    """Returns the ids of samples that differ only in their seed."""
    files = _init_files(settings)  # The content of a file counts, by `init_sha256`, not its path.
    # Quotes in a prompt are escaped, so that no prompt contains this.
    before, _, after = json.dumps(_without_defaults(settings) | files | {"seed": 0}, sort_keys=True).partition(
        '"seed": 0'
    )
    words = [word for term in TERMS if (word := _slug(settings.terms[term].prompt))]
    digests = (hashlib.sha256(f'{before}"seed": {seed}{after}'.encode()).hexdigest()[:10] for seed in seeds)
    return ["_".join([*words, str(seed), digest]) for seed, digest in zip(seeds, digests, strict=True)]


def _init_files(settings: SampleSettings) -> dict[str, str]:
    """Returns 'file' for each file to start from that is set, and '' for the others."""
    return {name: "file" if getattr(settings, name) else "" for name in _INIT_FILES}


def _without_defaults(settings):
    """Returns the flat dictionary without the settings of methods that have their defaults."""
    terms = {name: _without(term.to_dict(), TERM_METHOD_DEFAULTS) for name, term in settings.terms.items()}
    return _without(settings.to_dict(), METHOD_DEFAULTS) | terms


def _without(settings, defaults):
    """Returns the settings that do not have their defaults."""
    return {name: value for name, value in settings.items() if name not in defaults or value != defaults[name]}


def _slug(text, length=28):
    """Returns the ASCII letters and digits of a text, in lower case with hyphens between words."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:length].strip("-")
