"""Generates a sample again from its record: --from."""

import dataclasses
import logging

from its_jax.generate.production import make
from its_jax.generate.record import machine
from its_jax.media.embedded_settings import read_settings
from its_jax.settings.ids import sample_id
from its_jax.settings.records import RECORD, from_record
from its_jax.settings.schema import RunOptions
from its_jax.storage.files import read_json


def reproduce(file, workdir):
    """Generates the sample again whose settings `file` holds, at its place in a batch of its size, to the same bits."""
    record = read_settings(file)
    settings, run = from_record(record)
    position = run.pop("position")
    options = RunOptions(num_samples=1, **run)
    if any(record["run"].get(key, here) != here for key, here in machine().items()):
        # The same bits are out of reach on this machine, and that batch may not fit its memory.
        options, position = dataclasses.replace(options, batch_size=0, devices_per_sample=1), 0
    make([settings], workdir, options=options, position=position)
    _warn_of_differences(record, read_json(workdir / sample_id(settings) / RECORD))


def _warn_of_differences(then, now):
    """Warns of what else than the settings decides the bits of a sample, where it is not as it was."""
    for group in ("models", "versions", "run"):
        before, here = then.get(group, {}), now.get(group, {})
        for name in sorted(before.keys() & here.keys()):
            if before[name] != here[name]:
                what = f"{group}.{name} was {before[name]} and is {here[name]}"
                logging.warning("%s: the sample may differ from the one that was made before", what)
