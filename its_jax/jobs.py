"""Settings -> jobs: one dictionary of plain values for each sample, with a stable id. No jax.

A job's settings hold everything that decides what the sample looks and sounds like, and nothing else: not how
many are made at once, not whether a video is written.
"""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import UserError

TERMS = ("image", "audio")
DTYPES = ("float32", "bfloat16", "float16")
VOCODERS = ("hifigan", "griffin_lim")
RECORD = "sample.json"  # written last: a job is done when its record is there

_TERM_KEYS = ("model", "prompt", "negative_prompt", "guidance_scale", "start_step", "weight", "view")
_KEYS = ("seed", "num_steps", "solver", "height", "width", "dtype", "crop_image", "cutoff_latent", "vocoder")
_MAX_SEED = 2**32 - 1


def expand(settings: Mapping[str, Any], num_samples: int) -> list[dict[str, Any]]:
    """The jobs of seeds seed, seed + 1, ...; checked.

    Args:
      settings: `_KEYS`, and a dictionary of `_TERM_KEYS` for each of `TERMS`.

    Raises:
      UserError: a count, size or setting that no sample can have.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: must be 1 or more")
    plain = {key: settings[key] for key in _KEYS}
    plain |= {term: {key: settings[term][key] for key in _TERM_KEYS} for term in TERMS}
    jobs = [plain | {"seed": plain["seed"] + i} for i in range(num_samples)]
    for job in jobs:
        check(job)
    return jobs


def check(job: Mapping[str, Any]) -> None:
    """Raises `UserError` for values that are wrong whatever the models are."""
    if not 0 <= job["seed"] <= _MAX_SEED:
        raise UserError(f"seed={job['seed']}: seeds must be 0 to {_MAX_SEED}")
    for key in ("height", "width", "num_steps"):
        if job[key] < 1:
            raise UserError(f"{key}={job[key]}: must be 1 or more")
    for key, known in (("dtype", DTYPES), ("vocoder", VOCODERS)):
        if job[key] not in known:
            raise UserError(f"{key}={job[key]!r} is not known here; choose one of {', '.join(known)}")
    if job["crop_image"] and job["cutoff_latent"]:
        raise UserError("crop_image and cutoff_latent cut off the same columns: set one of them, not both")
    for term in TERMS:
        for key in ("guidance_scale", "weight"):
            if not math.isfinite(job[term][key]):
                raise UserError(f"{term}.{key}={job[term][key]}: must be a finite number")
        for key in ("weight", "start_step"):
            if job[term][key] < 0:
                raise UserError(f"{term}.{key}={job[term][key]}: must not be negative")
    if sum(job[term]["weight"] for term in TERMS) == 0:
        raise UserError("image.weight and audio.weight sum to zero: set one of them above 0")
    if not any(_takes_part(job, term, 0) for term in TERMS):
        raise UserError(
            "no model takes part at step 0: let a term with a weight above 0 have start_step 0 "
            f"(image starts at {job['image']['start_step']}, audio at {job['audio']['start_step']} of {job['num_steps']})"
        )


def _takes_part(job, term, step):
    return job[term]["weight"] > 0 and job[term]["start_step"] <= step < job["num_steps"]


def job_id(job: Mapping[str, Any]) -> str:
    """Words of the prompts and the seed for people, and 10 hexadecimal digits over all settings.

    Safe as a file name on any system; equal settings give equal ids.
    """
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:10]
    words = [_slug(job[term]["prompt"]) for term in TERMS]
    return "_".join([*(word for word in words if word), str(job["seed"]), digest])


def _slug(text, length=28):
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:length].strip("-")


def unfinished(jobs: Sequence[Mapping[str, Any]], workdir: Path) -> list[Mapping[str, Any]]:
    """The distinct jobs whose record is not in the work folder."""
    by_id = {job_id(job): job for job in jobs}
    return [job for identity, job in by_id.items() if not (workdir / identity / RECORD).exists()]


def from_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The job in a sample's record; raises `UserError` if it is not one."""
    try:
        job = {key: record[key] for key in _KEYS}
        job |= {term: {key: record[term][key] for key in _TERM_KEYS} for term in TERMS}
        check(job)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"these are not the settings of a sample of ours: {error} is missing or of a wrong kind"
        ) from error
    return job
