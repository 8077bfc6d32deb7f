"""Generates a shard of a sweep, one group of programs after another, in the batches of `its_jax.generate.batches`."""

import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from its_jax.errors import DiskFull, UserError
from its_jax.generate import batches as batch_plan
from its_jax.generate.batches import ProgramGroup
from its_jax.generate.runner import BatchRunner
from its_jax.generate.samples import report, writing
from its_jax.pipeline.pipeline import Pipeline
from its_jax.pipeline.program import Program
from its_jax.runtime.cache import keep_programs
from its_jax.runtime.duration import format_duration
from its_jax.scoring.item import Scorer
from its_jax.settings.ids import sample_id
from its_jax.settings.schema import RunOptions, SampleSettings
from its_jax.storage.writers import FolderWriter, ShardWriter


def write_groups(
    pipeline: Pipeline,
    groups: Sequence[ProgramGroup],
    workdir: Path,
    store: FolderWriter | ShardWriter,
    done: Collection[str],
    *,
    options: RunOptions,
    shard: tuple[int, int] = (0, 1),
    scorers: Sequence[Scorer] = (),
) -> None:
    """Generates and writes the samples that are not done.

    Args:
      done: ids of finished samples. shard: index and count.

    Raises:
      UserError: some groups or samples could not be generated; all others are written.
      DiskFull: raised at once.
    """
    keep_programs()
    pending = [settings for group in groups for name, settings in group.requested.items() if name not in done]
    faults, clock = [], _Clock(-(-len(pending) // shard[1]))
    with writing(store, pending[:: shard[1]], options, scorers) as runner:
        for group in groups:
            missing = group.requested.keys() - done
            if not missing:
                continue
            try:
                program, batches = open_group(pipeline, group, workdir, missing, options, shard)
            except DiskFull:
                raise
            except UserError as error:  # of these settings; those of other groups may be right
                logging.warning("%d samples cannot be generated: %s", len(missing), error)
                faults.append(str(error))
                continue
            store.remove_leftovers(name for batch in batches for name in batch if name in missing)
            for batch in batches:
                assert program is not None  # there are batches
                run_batch(runner, program, *fill_batch(group, batch, missing))
                clock.count(len(missing.intersection(batch)))
            runner.finish()
    report(workdir, runner, faults)


def open_group(
    pipeline: Pipeline,
    group: ProgramGroup,
    workdir: Path,
    missing: Collection[str],
    options: RunOptions,
    shard: tuple[int, int],
) -> tuple[Program | None, list[list[str]]]:
    """Returns the program of a group, and the batches of this shard with missing samples; None if there are none.

    Raises:
      UserError: see `compile_group`; or other shards of the work folder use another batch size.
    """

    def own_batches(size):
        batches = batch_plan.plan_batches(workdir, group, size, alone=shard[1] == 1)
        return [batch for batch in batch_plan.shard(group, batches, *shard) if not names.isdisjoint(batch)]

    names = set(missing)
    requested, recorded = options.batch_size, batch_plan.recorded_batch_size(workdir, group)
    if recorded and requested in (0, recorded) and not own_batches(recorded):
        return None, []
    count = -(-len(group.requested) // shard[1])
    representatives = batch_plan.batch_representatives(group)
    program = compile_group(pipeline, representatives, workdir, count, requested or recorded, options)
    if requested and recorded and shard[1] > 1 and recorded != program.batch_size:
        raise UserError(
            f"batch_size={requested}: other processes of this sweep use a batch size of {recorded}; use the same, or 0"
        )
    program.warn([*group.requested.values()])
    return program, own_batches(program.batch_size)


def compile_group(
    pipeline: Pipeline,
    representatives: Sequence[SampleSettings],
    workdir: Path,
    pending: int,
    batch_size: int,
    options: RunOptions,
) -> Program:
    """Returns the program of a group, given one sample for each kind of batch.

    Args:
      pending: the number of samples. batch_size: samples at once, 0 to choose.

    Raises:
      UserError: the models cannot generate these samples, or the batch does not fit in memory.
    """
    program = pipeline.compile(
        representatives[0],
        pending=pending,
        batch_size=batch_size,
        devices_per_sample=options.devices_per_sample,
        may_shrink=not options.batch_size,
        workdir=workdir,
    )
    program.check(representatives)
    return program


def fill_batch(
    group: ProgramGroup, batch: Sequence[str], missing: Collection[str]
) -> tuple[list[SampleSettings], list[bool]]:
    """Returns the settings of a batch, and which of its samples are missing.

    A sample that is no longer in the grid keeps its place, so that the places of the others do not change.
    """
    other = next(group.requested[name] for name in batch if name in group.requested)
    return [group.requested.get(name, other) for name in batch], [name in missing for name in batch]


def run_batch(
    runner: BatchRunner, program: Program, batch: Sequence[SampleSettings], requested: Sequence[bool]
) -> None:
    """Generates a batch, except for samples whose file to start from cannot be used, which become faults of the runner.

    Args:
      requested: which samples of the batch are written.
    """
    usable: list[SampleSettings | None] = []
    for settings, is_requested in zip(batch, requested, strict=True):
        try:
            program.check_init_file(settings)
            usable.append(settings)
        except UserError as error:
            usable.append(None)
            if is_requested:
                runner.faults[sample_id(settings)] = f"{sample_id(settings)}: {error}"
    # Another sample takes the place of one that is left out, so that the places of the others do not change.
    if other := next(filter(None, usable), None):
        requested = [is_requested and bool(settings) for settings, is_requested in zip(usable, requested, strict=True)]
        runner.run_all(program, [settings or other for settings in usable], requested)


class _Clock:
    """Logs the expected duration once, after the second batch, because the first one takes longer."""

    def __init__(self, samples: int):
        self._left, self._batches, self._start = samples, 0, time.perf_counter()

    def count(self, samples: int) -> None:
        """Counts the samples of a batch."""
        self._batches, self._left = self._batches + 1, self._left - samples
        seconds, self._start = time.perf_counter() - self._start, time.perf_counter()
        if self._batches == 2 and self._left > 0:
            logging.info("%d samples are left: about %s", self._left, format_duration(seconds / samples * self._left))
