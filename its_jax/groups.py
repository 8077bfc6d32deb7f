"""A share of a sweep's jobs -> samples, program after program, batch by batch as `its_jax.plan` has them."""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax import outlook, plan, production
from its_jax.errors import UserError
from its_jax.sampler import Sampler
from its_jax.scoring import Scorer
from its_jax.store import Folders, Shards


def make(
    groups: Sequence[plan.Group],
    workdir: Path,
    store: Folders | Shards,
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
    production.keep_programs()
    todo = [job for group in groups for name, job in group.jobs.items() if name not in done]
    faults = []
    with production.pipeline(store, todo[:: share[1]], video=how["video"], scorers=scorers) as line:
        for group in groups:
            wanted = group.jobs.keys() - done
            if not wanted:
                continue
            try:
                sampler, batches = begin(group, workdir, wanted, how, share)
            except UserError as error:  # of these settings; those of other groups may be right
                logging.warning("%d samples cannot be made: %s", len(wanted), error)
                faults.append(str(error))
                continue
            names = [name for batch in batches for name in batch if name in wanted]
            store.clean(names)
            for batch in _timed(batches, wanted):
                make_batch(line, sampler, *to_make(group, batch, wanted))
            line.finish()
            sampler = None  # its memory is for the next one
    production.tell(workdir, line, faults)


def begin(
    group: plan.Group, workdir: Path, wanted: Collection[str], how: Mapping[str, Any], share: tuple[int, int]
) -> tuple[Sampler | None, list[list[str]]]:
    """The sampler of a group, and the batches of this share in which something is wanted; no sampler for none.

    Raises:
      UserError: as `Sampler` does.
    """

    def mine(size):
        batches = plan.share(group, plan.batches(workdir, group, size), *share)
        return [batch for batch in batches if not wanted.isdisjoint(batch)]

    asked, written = how["batch_size"], plan.batch_size(workdir, group)
    if written and asked in (0, written) and not mine(written):
        return None, []
    pending = -(-len(group.jobs) // share[1])
    sampler = sampler_for(plan.of_each_batch(group), pending, asked or written, how)
    sampler.warn(group.jobs.values())
    return sampler, mine(sampler.batch_size)


def sampler_for(todo: Sequence[Mapping[str, Any]], pending: int, batch_size: int, how: Mapping[str, Any]) -> Sampler:
    """For jobs of one group, of which `todo` has one for each that no other can share a batch with.

    Raises:
      UserError: as `Sampler` does.
    """
    sampler = Sampler(
        todo[0],
        pending=pending,
        batch_size=batch_size,
        devices_per_sample=how["devices_per_sample"],
        may_shrink=not how["batch_size"],
    )
    for job in todo:
        sampler.tables([job])  # refuses what the models cannot do
    return sampler


def to_make(
    group: plan.Group, batch: Sequence[str], wanted: Collection[str]
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


def _timed(batches, wanted) -> Iterator[Sequence[str]]:
    """The batches; after the second one (the first takes longer) it is told how long the others will take."""
    for number, batch in enumerate(batches):
        start = time.perf_counter()
        yield batch
        left = len(batches) - 2
        if number == 1 and left:
            seconds = time.perf_counter() - start
            logging.info("%d batches of these settings are left: about %s", left, outlook.duration(seconds * left))
