"""Generates a sample again from its record: --from."""

import logging

from its_jax.generate.production import make
from its_jax.generate.record import machine
from its_jax.media.embedded_settings import read_settings
from its_jax.settings.ids import sample_id
from its_jax.settings.records import RECORD, from_record
from its_jax.storage.files import read_json


def reproduce(file, workdir):
    """Makes the sample again whose settings `file` holds, at its place in a batch of its size: to the same bits."""
    record = read_settings(file)
    job, how = from_record(record)
    if any(record["run"].get(key, here) != here for key, here in machine().items()):
        # The bits are beyond reach, and that batch may be beyond this memory.
        how |= {"batch_size": 0, "position": 0, "devices_per_sample": 1}
    make([job], workdir, **how)
    _warn_of_differences(record, read_json(workdir / sample_id(job) / RECORD))


def _warn_of_differences(then, now):
    """Warns of what else than the settings decides the bits of a sample, where it is not as it was."""
    for group in ("models", "versions", "run"):
        before, here = then.get(group, {}), now.get(group, {})
        for name in sorted(before.keys() & here.keys()):
            if before[name] != here[name]:
                what = f"{group}.{name} was {before[name]} and is {here[name]}"
                logging.warning("%s: the sample may differ from the one that was made before", what)
