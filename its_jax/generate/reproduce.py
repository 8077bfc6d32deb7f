"""Generates a sample again from its record, for `--from`."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from its_jax.generate.samples import write_samples
from its_jax.media.embedded_settings import read_settings
from its_jax.pipeline.pipeline import Pipeline
from its_jax.pipeline.record import machine
from its_jax.settings.ids import sample_id
from its_jax.settings.records import RECORD, from_record
from its_jax.settings.schema import RunOptions
from its_jax.storage.files import read_json


def reproduce(pipeline: Pipeline, file: str | Path, workdir: Path) -> None:
    """Generates the sample whose settings `file` holds, at its index in a batch of the same size: to the same bits.

    Args:
      file: a PNG, WAV or sample.json.

    Raises:
      UserError: the file holds no settings of a sample, or the sample cannot be generated.
    """
    record = read_settings(file)
    settings, run = from_record(record)
    batch_index = run.pop("position")
    if any(record["run"].get(key, here) != here for key, here in machine().items()):
        # The same bits cannot be reached on another kind of machine, and that batch may not fit in its memory.
        run |= {"batch_size": 0, "devices_per_sample": 1}
        batch_index = 0
    write_samples(pipeline, [settings], workdir, RunOptions(num_samples=1, **run), batch_index=batch_index)
    _warn_about_differences(record, read_json(workdir / sample_id(settings) / RECORD))


def _warn_about_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Logs a warning for each model, version and machine property that has changed since."""
    for group in ("models", "versions", "run"):
        then, here = before.get(group, {}), now.get(group, {})
        for name in sorted(then.keys() & here.keys()):
            if then[name] != here[name]:
                change = f"{group}.{name} was {then[name]} and is {here[name]}"
                logging.warning("%s: the sample may differ from the one on record", change)
