"""Generates a share of a sweep, group after group, in the batches of `its_jax.generate.batches`."""

import itertools
import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from its_jax.errors import DiskFull, UserError
from its_jax.generate import batches as generate_batches
from its_jax.generate import production
from its_jax.pipeline.methods import subclasses
from its_jax.pipeline.sampler import Sampler
from its_jax.runtime import cache
from its_jax.runtime.duration import format_duration
from its_jax.scoring.item import Scorer
from its_jax.settings.schema import RunOptions, SampleSettings
from its_jax.settings.steps import denoising_runs
from its_jax.storage.writers import FolderWriter, ShardWriter


def make(
    groups: Sequence[generate_batches.ProgramGroup],
    workdir: Path,
    store: FolderWriter | ShardWriter,
    done: Collection[str],
    *,
    options: RunOptions,
    share: tuple[int, int] = (0, 1),
    scorers: Sequence[Scorer] = (),
) -> None:
    """Generates and writes the samples that are not done.

    Args:
      done: ids. share: index and count.

    Raises:
      UserError: what could not be made, group or sample; all others are written. DiskFull: at once.
    """
    cache.keep_programs()
    pending = [settings for group in groups for name, settings in group.requested.items() if name not in done]
    faults, clock = [], _Clock(-(-len(pending) // share[1]))
    with production.pipeline(store, pending[:: share[1]], video=options.video, scorers=scorers) as line:
        for group in groups:
            missing = group.requested.keys() - done
            if not missing:
                continue
            try:
                sampler, batches = begin(group, workdir, missing, options, share)
            except DiskFull:
                raise
            except UserError as error:  # of these settings; those of other groups may be right
                logging.warning("%d samples cannot be made: %s", len(missing), error)
                faults.append(str(error))
                continue
            store.remove_leftovers(name for batch in batches for name in batch if name in missing)
            for batch in batches:
                assert sampler is not None  # there are batches
                make_batch(line, sampler, *to_make(group, batch, missing))
                clock.tell(len(missing.intersection(batch)))
            line.finish()
            sampler = None  # its memory is for the next one
    production.tell(workdir, line, faults)


def begin(
    group: generate_batches.ProgramGroup,
    workdir: Path,
    missing: Collection[str],
    options: RunOptions,
    share: tuple[int, int],
) -> tuple[Sampler | None, list[list[str]]]:
    """Returns the sampler of a group, and the batches of this share with missing samples; no sampler if there are none.

    Raises:
      UserError: as `Sampler` does.
    """

    def mine(size):
        batches = generate_batches.shard(
            group, generate_batches.plan_batches(workdir, group, size, alone=share[1] == 1), *share
        )
        return [batch for batch in batches if not missing.isdisjoint(batch)]

    requested, recorded = options.batch_size, generate_batches.recorded_batch_size(workdir, group)
    if recorded and requested in (0, recorded) and not mine(recorded):
        return None, []
    count = -(-len(group.requested) // share[1])
    representatives = generate_batches.batch_representatives(group)
    sampler = sampler_for(representatives, workdir, count, requested or recorded, options)
    if requested and recorded and share[1] > 1 and recorded != sampler.batch_size:
        raise UserError(
            f"batch_size={requested}: the other shares of this work folder make {recorded} at once; give that, or 0"
        )
    sampler.warn([*group.requested.values()])
    return sampler, mine(sampler.batch_size)


def sampler_for(
    representatives: Sequence[SampleSettings], workdir: Path, pending: int, batch_size: int, options: RunOptions
) -> Sampler:
    """Returns the sampler of a group, given one sample for each kind of batch.

    Args:
      pending: the number of samples. batch_size: samples at once, 0 to choose.

    Raises:
      UserError: as `Sampler` does.
    """
    sampler = subclasses.sampler_for(
        representatives[0],
        workdir,
        Sampler,
        pending=pending,
        batch_size=batch_size,
        devices_per_sample=options.devices_per_sample,
        may_shrink=not options.batch_size,
    )
    for run in itertools.chain.from_iterable(map(denoising_runs, representatives)):
        sampler.tables([run])  # raises for what the models cannot do
    return sampler


def to_make(
    group: generate_batches.ProgramGroup, batch: Sequence[str], missing: Collection[str]
) -> tuple[list[SampleSettings], list[bool]]:
    """Returns the settings of a batch, and which of its samples are missing. A sample that the grid has lost since
    keeps its place, so that the places of the others stay as they are."""
    other = next(group.requested[name] for name in batch if name in group.requested)
    return [group.requested.get(name, other) for name in batch], [name in missing for name in batch]


def make_batch(
    line: production.Pipeline, sampler: Sampler, batch: Sequence[SampleSettings], wanted: Sequence[bool]
) -> None:
    """Generates a batch, in several parts where the memory does not suffice for the whole."""
    made = 0
    while any(wanted[made:]):
        made += line.make(sampler, batch[made:], wanted=wanted[made:])


class _Clock:
    """Tells once, after the second batch (the first takes longer), how long the other samples will take."""

    def __init__(self, samples):
        self._left, self._batches, self._start = samples, 0, time.perf_counter()

    def tell(self, samples: int) -> None:
        """After each batch: how many samples it has made."""
        self._batches, self._left = self._batches + 1, self._left - samples
        seconds, self._start = time.perf_counter() - self._start, time.perf_counter()
        if self._batches == 2 and self._left > 0:
            logging.info("%d samples are left: about %s", self._left, format_duration(seconds / samples * self._left))
