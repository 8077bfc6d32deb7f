"""Reads settings from a config."""

import difflib
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.settings.schema import (
    METHOD_DEFAULTS,
    RUN_TYPES,
    SAMPLE_TYPES,
    TERM_METHOD_DEFAULTS,
    TERM_TYPES,
    TERMS,
    term_names,
)
from its_jax.settings.validate import check_seed, validate


def read_settings(settings: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Everything that a config says -> its jobs, and the settings of the run.

    Raises:
      UserError: a name that is unknown or missing, a value of a wrong type, or one that no sample can have.
    """
    check_names(settings, {*SAMPLE_TYPES, *RUN_TYPES, *term_names(settings), *TERMS})
    run = parse_types(settings, RUN_TYPES)
    jobs = expand(settings, run["num_samples"])
    for term in term_names(settings):
        check_names(settings[term], TERM_TYPES, f"{term}.")
    if run["batch_size"] < 0:
        raise UserError(f"batch_size={run['batch_size']}: must be 0 (chosen from the memory) or more")
    return jobs, run


def unknown_setting(name: str, known: Collection[str], prefix: str = "") -> str:
    """What to tell of a setting that is not among those that are known."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return f"there is no setting {prefix}{name}; {hint}"


def expand(settings: Mapping[str, Any], num_samples: int) -> list[dict[str, Any]]:
    """The jobs of seeds seed, seed + 1, ...; checked. Settings that are not a job's are left out.

    Raises:
      UserError: a setting is missing, of a wrong type, or one that no sample can have.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: must be 1 or more")
    job = parse_types({**METHOD_DEFAULTS, **settings}, SAMPLE_TYPES)
    for term in term_names(settings):
        if not isinstance(settings.get(term), Mapping):
            raise UserError(f"the settings of {term!r} are missing: {', '.join(TERM_TYPES)}")
        job[term] = parse_types(TERM_METHOD_DEFAULTS | settings[term], TERM_TYPES, f"{term}.")
    job["init_sha256"] = _digest(job)
    validate(job)
    check_seed(job["seed"] + num_samples - 1)
    return [job | {"seed": job["seed"] + i} for i in range(num_samples)]


def _digest(job):
    """Of the file that the sample starts from: another content is another sample."""
    path = job["init_image"] or job["init_audio"]
    if not path:
        return ""
    try:
        with open(Path(path).expanduser(), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user who is not there
        name = "init_image" if job["init_image"] else "init_audio"
        raise InitFileError(f"{name}={path}: cannot be read ({getattr(error, 'strerror', error)})") from error


class InitFileError(UserError):
    """The file to start from cannot be read."""


def check_names(settings: Collection[str], known: Collection[str], prefix: str = "") -> None:
    """Raises `UserError` for a setting that is not among those that are known; `prefix` stands before its name."""
    for name in settings:
        if name not in known:
            raise UserError(unknown_setting(name, known, prefix))


def parse_types(settings: Mapping[str, Any], types: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings that `types` names; 10 and 10.0 are one guidance scale, and make one id.

    Raises:
      UserError: one is missing, or of another type; `prefix` stands before its name.
    """
    found: dict[str, Any] = {}
    for name, kind in types.items():
        if name not in settings:
            raise UserError(f"the setting {prefix}{name} is missing")
        value = settings[name]
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise UserError(f"{prefix}{name}={value!r}: must be of type {kind.__name__}")
        found[name] = kind(value)
    return found
