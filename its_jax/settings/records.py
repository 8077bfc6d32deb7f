"""Settings in the record of a sample."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import InitFileError, expand, parse_types
from its_jax.settings.schema import METHOD_DEFAULTS, RECORD_GROUPS, TERM_METHOD_DEFAULTS

RECORD = "sample.json"  # written last: a job is done when its record is there
VIDEO = "video.mp4"
# What a record tells of the run, and what older ones leave out.
_MADE = {"batch_size": int, "position": int, "devices_per_sample": int, "video": bool}
_MADE_BEFORE = {"devices_per_sample": 1}
# Settings that older records leave out.
_JOB_BEFORE = {"cache_interval": 1} | METHOD_DEFAULTS
_TERM_BEFORE = {"guidance_start_step": 0, "guidance_stop_step": -1} | TERM_METHOD_DEFAULTS


def unfinished(
    jobs: Sequence[Mapping[str, Any]], workdir: Path, files: Sequence[str] = (RECORD,)
) -> list[Mapping[str, Any]]:
    """The distinct jobs of which one of `files` is not in the work folder."""
    by_id = {sample_id(job): job for job in jobs}
    return [job for i, job in by_id.items() if not all((workdir / i / name).exists() for name in files)]


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's settings alone, as they are, and those that older records leave out."""
    settings = {name: value for name, value in record.items() if name not in (*RECORD_GROUPS, "id")}
    groups = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    return _JOB_BEFORE | settings | {term: {**_TERM_BEFORE, **group} for term, group in groups.items()}


def from_record(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job in a sample's record, and what it tells of its run: `batch_size`, `position` and others.

    Raises:
      UserError: it is not the record of a sample of ours.
    """
    try:
        for name in ("run", "models", "versions"):
            if not isinstance(record.get(name), Mapping):
                raise UserError(f"the setting {name} is missing")
        (job,) = expand(settings_of(record), 1)
        made = parse_types(_MADE_BEFORE | record["run"], _MADE, "run.")
    except InitFileError as error:
        raise UserError(f"{error}; this sample started from it: put it back there") from error
    except UserError as error:
        raise UserError(f"these are not the settings of a sample of ours: {error}") from error
    if job["init_sha256"] != record.get("init_sha256"):
        path = job["init_image"] or job["init_audio"]
        raise UserError(f"{path}: is not any more the file that this sample started from")
    if not 0 <= made["position"] < made["batch_size"]:
        raise UserError(f"run.position={made['position']}: must be 0 to {made['batch_size'] - 1}, within the batch")
    return job, made
