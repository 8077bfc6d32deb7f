"""A share of a sweep's jobs -> samples, program after program, batch by batch as `its_jax.generate.batches` has them."""

import itertools
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import DiskFull, UserError
from its_jax.generate import batches as generate_batches
from its_jax.generate import production
from its_jax.pipeline.methods import subclasses
from its_jax.pipeline.sampler import Sampler
from its_jax.runtime import cache
from its_jax.runtime.duration import format_duration
from its_jax.scoring.item import Scorer
from its_jax.settings.steps import denoising_runs
from its_jax.storage.writers import FolderWriter, ShardWriter


def make(
    groups: Sequence[generate_batches.ProgramGroup],
    workdir: Path,
    store: FolderWriter | ShardWriter,
    done: Collection[str],
    *,
    how: Mapping[str, Any],
    share: tuple[int, int] = (0, 1),
    scorers: Sequence[Scorer] = (),
) -> None:
    """Makes and writes what is not done.

    Args:
      done: ids. how: `batch_size`, `devices_per_sample`, `video`. share: index and count.

    Raises:
      UserError: what could not be made, group or sample; all others are written. DiskFull: at once.
    """
    cache.keep_programs()
    todo = [job for group in groups for name, job in group.jobs.items() if name not in done]
    faults, clock = [], _Clock(-(-len(todo) // share[1]))
    with production.pipeline(store, todo[:: share[1]], video=how["video"], scorers=scorers) as line:
        for group in groups:
            wanted = group.jobs.keys() - done
            if not wanted:
                continue
            try:
                sampler, batches = begin(group, workdir, wanted, how, share)
            except DiskFull:
                raise
            except UserError as error:  # of these settings; those of other groups may be right
                logging.warning("%d samples cannot be made: %s", len(wanted), error)
                faults.append(str(error))
                continue
            store.clean(name for batch in batches for name in batch if name in wanted)
            for batch in batches:
                assert sampler is not None  # there are batches
                make_batch(line, sampler, *to_make(group, batch, wanted))
                clock.tell(len(wanted.intersection(batch)))
            line.finish()
            sampler = None  # its memory is for the next one
    production.tell(workdir, line, faults)


def begin(
    group: generate_batches.ProgramGroup,
    workdir: Path,
    wanted: Collection[str],
    how: Mapping[str, Any],
    share: tuple[int, int],
) -> tuple[Sampler | None, list[list[str]]]:
    """The sampler of a group, and the batches of this share in which something is wanted; no sampler for none.

    Raises:
      UserError: as `Sampler` does.
    """

    def mine(size):
        batches = generate_batches.shard(
            group, generate_batches.plan_batches(workdir, group, size, alone=share[1] == 1), *share
        )
        return [batch for batch in batches if not wanted.isdisjoint(batch)]

    asked, written = how["batch_size"], generate_batches.recorded_batch_size(workdir, group)
    if written and asked in (0, written) and not mine(written):
        return None, []
    pending = -(-len(group.jobs) // share[1])
    sampler = sampler_for(generate_batches.batch_representatives(group), workdir, pending, asked or written, how)
    if asked and written and share[1] > 1 and written != sampler.batch_size:
        raise UserError(
            f"batch_size={asked}: the other shares of this work folder make {written} at once; give that, or 0"
        )
    sampler.warn([*group.jobs.values()])
    return sampler, mine(sampler.batch_size)


def sampler_for(
    todo: Sequence[Mapping[str, Any]], workdir: Path, pending: int, batch_size: int, how: Mapping[str, Any]
) -> Sampler:
    """For jobs of one group, of which `todo` has one for each that no other can share a batch with.

    Raises:
      UserError: as `Sampler` does.
    """
    sampler = subclasses.sampler_for(
        todo[0],
        workdir,
        Sampler,
        pending=pending,
        batch_size=batch_size,
        devices_per_sample=how["devices_per_sample"],
        may_shrink=not how["batch_size"],
    )
    for run in itertools.chain.from_iterable(map(denoising_runs, todo)):
        sampler.tables([run])  # refuses what the models cannot do
    return sampler


def to_make(
    group: generate_batches.ProgramGroup, batch: Sequence[str], wanted: Collection[str]
) -> tuple[list[Mapping[str, Any]], list[bool]]:
    """The jobs of a batch, and which of them are wanted; a job that the grid has lost since keeps its place, so that
    those of the others stay as they are."""
    other = next(group.jobs[name] for name in batch if name in group.jobs)
    return [group.jobs.get(name, other) for name in batch], [name in wanted for name in batch]


def make_batch(
    line: production.Pipeline, sampler: Sampler, todo: Sequence[Mapping[str, Any]], wanted: Sequence[bool]
) -> None:
    """In several parts, where the memory does not suffice for the whole."""
    made = 0
    while any(wanted[made:]):
        made += line.make(sampler, todo[made:], wanted=wanted[made:])


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
