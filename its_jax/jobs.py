"""Settings -> jobs: one dictionary of plain values for each sample, with a stable id. No jax.

A job's settings hold everything that decides what the sample looks and sounds like, and nothing else: not how
many are made at once, not whether a video is written.
"""

import difflib
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

# Settings and their types. Those of a job decide what its sample is; those of a run, only how it is made.
_TERM = {"model": str, "prompt": str, "negative_prompt": str}
_TERM |= {"guidance_scale": float, "start_step": int, "weight": float}
_JOB = {"seed": int, "num_steps": int, "solver": str, "height": int, "width": int, "dtype": str}
_JOB |= {"view": str, "crop_image": bool, "cutoff_latent": bool, "vocoder": str}
_RUN = {"num_samples": int, "batch_size": int, "video": bool}
_MADE = {"batch_size": int, "position": int, "video": bool}  # what a record tells of the run
_MAX_SEED = 2**32 - 1


def read(settings: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Everything that a config says -> its jobs, and the settings of the run.

    Raises:
      UserError: a name that is unknown or missing, a value of a wrong type, or one that no sample can have.
    """
    _check_names(settings, {*_JOB, *_RUN, *TERMS})
    run = _typed(settings, _RUN)
    jobs = expand(settings, run["num_samples"])
    for term in TERMS:
        _check_names(settings[term], _TERM, f"{term}.")
    if run["batch_size"] < 0:
        raise UserError(f"batch_size={run['batch_size']}: must be 0 (chosen from the memory) or more")
    return jobs, run


def expand(settings: Mapping[str, Any], num_samples: int) -> list[dict[str, Any]]:
    """The jobs of seeds seed, seed + 1, ...; checked. Settings that are not a job's are left out.

    Raises:
      UserError: a setting is missing, of a wrong type, or one that no sample can have.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: must be 1 or more")
    job = _typed(settings, _JOB)
    for term in TERMS:
        if not isinstance(settings.get(term), Mapping):
            raise UserError(f"the settings of {term!r} are missing: {', '.join(_TERM)}")
        job[term] = _typed(settings[term], _TERM, f"{term}.")
    jobs = [job | {"seed": job["seed"] + i} for i in range(num_samples)]
    for job in (jobs[0], jobs[-1]):
        check(job)
    return jobs


def _check_names(settings, known, prefix=""):
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            raise UserError(f"there is no setting {prefix}{name}; {hint}")


def _typed(settings, types, prefix=""):
    """The settings that `types` names; 10 and 10.0 are one guidance scale, and make one id."""
    typed = {}
    for name, kind in types.items():
        if name not in settings:
            raise UserError(f"the setting {prefix}{name} is missing")
        value = settings[name]
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise UserError(f"{prefix}{name}={value!r}: must be of type {kind.__name__}")
        typed[name] = kind(value)
    return typed


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
    if job["view"] != "identity" and (job["crop_image"] or job["cutoff_latent"]):
        raise UserError("crop_image and cutoff_latent cut the end of a spectrogram: they need view='identity'")
    if job["crop_image"] and job["cutoff_latent"]:
        raise UserError("crop_image and cutoff_latent cut off the same columns: set one of them, not both")
    for term in TERMS:
        for key in ("prompt", "negative_prompt"):
            _check_text(f"{term}.{key}", job[term][key])
        for key in ("guidance_scale", "weight"):
            if not math.isfinite(job[term][key]):
                raise UserError(f"{term}.{key}={job[term][key]}: must be a finite number")
        for key in ("weight", "start_step"):
            if job[term][key] < 0:
                raise UserError(f"{term}.{key}={job[term][key]}: must not be negative")
    if sum(job[term]["weight"] for term in TERMS) == 0:
        raise UserError("image.weight and audio.weight sum to zero: set one of them above 0")
    if not any(job[term]["weight"] > 0 and job[term]["start_step"] == 0 for term in TERMS):
        starts = ", ".join(f"{term} at {job[term]['start_step']}" for term in TERMS)
        raise UserError(
            f"no model takes part at step 0 of {job['num_steps']}: one with a weight above 0 must ({starts})"
        )


def _check_text(name, text):
    """A shell hands over bytes that are no UTF-8 as halves of surrogate pairs, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name}={ascii(text)}: is not valid text; give it in UTF-8") from error


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


def unfinished(
    jobs: Sequence[Mapping[str, Any]], workdir: Path, files: Sequence[str] = (RECORD,)
) -> list[Mapping[str, Any]]:
    """The distinct jobs of which one of `files` is not in the work folder."""
    by_id = {job_id(job): job for job in jobs}
    return [job for i, job in by_id.items() if not all((workdir / i / name).exists() for name in files)]


def from_record(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job in a sample's record, and the `batch_size`, `position` and `video` of its run.

    Raises:
      UserError: it is not the record of a sample of ours.
    """
    try:
        (job,) = expand(record, 1)
        groups = {name: record.get(name) for name in ("run", "models", "versions")}
        for name, group in groups.items():
            if not isinstance(group, Mapping):
                raise UserError(f"the setting {name} is missing")
        made = _typed(groups["run"], _MADE, "run.")
    except UserError as error:
        raise UserError(f"these are not the settings of a sample of ours: {error}") from error
    if not 0 <= made["position"] < made["batch_size"]:
        raise UserError(f"run.position={made['position']}: must be 0 to {made['batch_size'] - 1}, within the batch")
    return job, made
