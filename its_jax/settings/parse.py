"""Reads settings from a config."""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from its_jax.errors import UserError, unknown_setting
from its_jax.settings.fields import parse_types
from its_jax.settings.schema import (
    RUN_DEFAULTS,
    RUN_TYPES,
    SAMPLE_DEFAULTS,
    SAMPLE_TYPES,
    TERM_DEFAULTS,
    TERM_TYPES,
    TERMS,
    RunOptions,
    SampleSettings,
    term_names,
)
from its_jax.settings.validate import check_loudness, check_seed, validate

_NEW_NS = 2 * 10**9  # Changes of a file that are this far apart have different times on any file system.


def read_settings(settings: Mapping[str, Any]) -> tuple[list[SampleSettings], RunOptions]:
    """Reads a config: the settings of each sample, and the options of the run.

    Raises:
      UserError: a name is unknown or missing, a value has another type, or no sample can have it.
    """
    options = read_options(settings)
    return expand(settings, options.num_samples), options


def read_options(settings: Mapping[str, Any]) -> RunOptions:
    """Reads the options of the run from a config, and checks the names of its settings, but not the sample that it has.

    Raises:
      UserError: a name is unknown, or an option is missing, has another type or is out of range.
    """
    check_names(settings, {*SAMPLE_TYPES, *RUN_TYPES, *term_names(settings), *TERMS})
    for term in term_names(settings):
        if isinstance(settings.get(term), Mapping):
            check_names(settings[term], TERM_TYPES, f"{term}.")
    options = RunOptions(**parse_types({**RUN_DEFAULTS, **settings}, RUN_TYPES))
    check_loudness(options.loudness)
    if options.batch_size < 0:
        raise UserError(f"batch_size={options.batch_size}: must be 0 (chosen from the memory) or more")
    return options


def expand(settings: Mapping[str, Any], num_samples: int) -> list[SampleSettings]:
    """Reads the settings of a sample, and returns those of `num_samples` samples with the seeds seed, seed + 1, ...

    Settings are checked; those that are not of a sample are ignored, and those that are left out have their defaults.

    Raises:
      UserError: a setting is missing or has another type, or no sample can have it.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: must be 1 or more")
    first = read_complete(with_defaults(settings))
    check_seed(first.seed + num_samples - 1)
    return [dataclasses.replace(first, seed=first.seed + i) for i in range(num_samples)]


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a config, and the defaults of those that it leaves out."""
    terms = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    complete = {name: {**TERM_DEFAULTS, **term} for name, term in terms.items()}
    return {**RUN_DEFAULTS, **SAMPLE_DEFAULTS, **settings, **complete}


def read_complete(settings: Mapping[str, Any]) -> SampleSettings:
    """Reads the settings of one sample, of which none may be left out, and checks them.

    Raises:
      UserError: a setting is missing or has another type, or no sample can have it.
    """
    sample = SampleSettings.from_dict(settings)
    sample = dataclasses.replace(sample, init_sha256=_init_digest(sample))
    validate(sample)
    return sample


def _init_digest(settings: SampleSettings) -> str:
    """Computes the digest of the file that a sample starts from, because another content is another sample."""
    name = "init_image" if settings.init_image else "init_audio"
    path = getattr(settings, name)
    try:
        return file_digest(path) if path else ""
    except InitFileError as error:
        raise InitFileError(f"{name}={error}") from error


def file_digest(path: str) -> str:
    """Computes the SHA-256 of a file, 64 hexadecimal digits.

    A file that many samples start from is read once. If it is so new that another change might have the same time, it
    is read again.

    Raises:
      InitFileError: the file cannot be read.
    """
    try:
        file = Path(path).expanduser()
        status = file.stat()
        is_new = time.time_ns() - status.st_mtime_ns < _NEW_NS
        compute = _digest.__wrapped__ if is_new else _digest
        return compute(file, status.st_size, status.st_mtime_ns)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user that does not exist
        raise InitFileError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error


@functools.lru_cache(maxsize=1024)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Computes the SHA-256 of a file with this size and time of its last change."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class InitFileError(UserError):
    """The file to start from cannot be read."""


def check_names(settings: Collection[str], known: Collection[str], prefix: str = "") -> None:
    """Raises `UserError` for a setting that is not among `known`; `prefix` stands before its name."""
    for name in settings:
        if name not in known:
            raise UserError(unknown_setting(name, known, prefix))
