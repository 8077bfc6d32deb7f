"""Settings in the record of a sample."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.settings.fields import parse_types
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import InitFileError, read_complete
from its_jax.settings.schema import METHOD_DEFAULTS, RECORD_GROUPS, TERM_METHOD_DEFAULTS, SampleSettings, term_names
from its_jax.settings.steps import first_of_views
from its_jax.settings.validate import check_loudness

RECORD = "sample.json"  # written last: a sample is finished once its record exists
VIDEO = "video.mp4"
STAGES = ("encode", "denoise", "decode", "vocode")  # of a batch, in `seconds`; "write" is of one sample
# The part of a record about its run, and what older records leave out of it.
_RUN_TYPES = {"batch_size": int, "position": int, "devices_per_sample": int, "video": bool, "loudness": float | None}
_RUN_DEFAULTS = {"devices_per_sample": 1, "loudness": None}  # Older sounds have their raw scale.
# Settings that older records leave out.
_SAMPLE_DEFAULTS = {"cache_interval": 1} | METHOD_DEFAULTS
_TERM_DEFAULTS = {"guidance_start_step": 0, "guidance_stop_step": -1} | TERM_METHOD_DEFAULTS


def unfinished(
    requested: Sequence[SampleSettings], workdir: Path, files: Sequence[str] = (RECORD,)
) -> list[SampleSettings]:
    """Returns the distinct samples of which one of `files` is not in the work folder."""
    by_id = {sample_id(settings): settings for settings in requested}
    return [settings for i, settings in by_id.items() if not all((workdir / i / name).exists() for name in files)]


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings in a record as they are, and those that older records leave out, as a flat dictionary."""
    settings = {name: value for name, value in record.items() if name not in (*RECORD_GROUPS, "id")}
    groups = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    return _SAMPLE_DEFAULTS | settings | {term: {**_TERM_DEFAULTS, **group} for term, group in groups.items()}


def recorded_settings(record: Mapping[str, Any]) -> SampleSettings:
    """Returns the settings in a record. They are not validated, and the file to start from need not exist.

    Raises:
      UserError: a setting is missing or has another type.
    """
    return SampleSettings.from_dict(settings_of(record))


def recorded_image_terms(record: Mapping[str, Any]) -> list[str]:
    """Returns the terms of a record whose images are written, see `its_jax.settings.steps.image_terms`.

    Raises:
      KeyError, TypeError: it is not the record of a sample.
    """
    settings = settings_of(record)
    return first_of_views({term: settings[term]["view"] for term in term_names(settings)})


def from_record(record: Mapping[str, Any]) -> tuple[SampleSettings, dict[str, Any]]:
    """Returns the validated settings in a sample's record, and those of its run: `batch_size`, `position`,
    `devices_per_sample`, `video` and `loudness`.

    Raises:
      UserError: it is not the record of a sample.
    """
    try:
        for name in ("run", "models", "versions"):
            if not isinstance(record.get(name), Mapping):
                raise UserError(f"the setting {name} is missing")
        settings = read_complete(settings_of(record))
        run = parse_types(_RUN_DEFAULTS | record["run"], _RUN_TYPES, "run.")
        check_loudness(run["loudness"], "run.")
    except InitFileError as error:
        raise UserError(f"{error}; this sample started from it: put it back there") from error
    except UserError as error:
        raise UserError(f"these are not the settings of a sample of ours: {error}") from error
    if settings.init_sha256 != record.get("init_sha256"):
        path = settings.init_image or settings.init_audio
        raise UserError(f"{path}: is not any more the file that this sample started from")
    if not 0 <= run["position"] < run["batch_size"]:
        raise UserError(f"run.position={run['position']}: must be 0 to {run['batch_size'] - 1}, within the batch")
    return settings, run
