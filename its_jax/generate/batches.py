"""Plans the batches of samples: which samples share a program, and which are generated together.

The last bits of a sample can depend on its place in a batch. So the batches of a work folder are recorded when they are
first planned, and a run that goes on, or one on another host, generates the same ones. Samples that a grid gains later
have batches of their own.
"""

import dataclasses
import hashlib
import json
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.settings.ids import batch_key, program_key
from its_jax.settings.schema import SampleSettings
from its_jax.storage import files, locks

FOLDER = "plan"
_ALL_BUT_SEED = operator.attrgetter(
    *(field.name for field in dataclasses.fields(SampleSettings) if field.name != "seed")
)


@dataclasses.dataclass(frozen=True)
class ProgramGroup:
    """Samples that share compiled programs.

    Attributes:
      key: 10 hexadecimal digits over what they share. requested: settings of the samples by id.
    """

    key: str
    requested: Mapping[str, SampleSettings]


def program_groups(requested: Mapping[str, SampleSettings]) -> list[ProgramGroup]:
    """Groups samples by the programs that they share, in the order of the first sample of each group.

    Args:
      requested: settings by id.
    """
    groups = _group_by(requested, program_key)
    return [
        ProgramGroup(hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10], group) for key, group in groups.items()
    ]


def batch_representatives(group: ProgramGroup) -> list[SampleSettings]:
    """Returns one sample for each kind of batch."""
    return [next(iter(batch.values())) for batch in _group_by(group.requested, batch_key).values()]


def recorded_batch_size(workdir: Path, group: ProgramGroup) -> int:
    """Returns the batch size on record, or 0 if there is none."""
    return _read(workdir, group)["batch_size"]


def plan_batches(workdir: Path, group: ProgramGroup, size: int, alone: bool = True) -> list[list[str]]:
    """Returns the batches of a group, as ids of `size` samples or fewer, and records those that are new.

    Some of the ids may be of samples that the grid has lost since. Batches of another size are planned again, unless
    other processes may be at work on them (not `alone`): then the size on record counts.

    Raises:
      UserError: the folder cannot be written.
    """
    with locks.wait_turn(workdir, FOLDER):
        if files.is_local(workdir):
            files.remove_leftovers(workdir / FOLDER)
        size = size if alone else _read(workdir, group)["batch_size"] or size
        known, new = _plan(workdir, group, size)
        if new:
            with files.explain_os_errors(workdir):
                (workdir / FOLDER).mkdir(parents=True, exist_ok=True)
            content = {"batch_size": size, "batches": known + new}
            files.write(_path(workdir, group), json.dumps(content).encode())
    return known + new


def count_batches(workdir: Path, group: ProgramGroup, size: int, done: Collection[str]) -> int:
    """Returns the number of batches of `size` that are not done; writes nothing."""
    known, new = _plan(workdir, group, size)
    pending = group.requested.keys() - done
    return sum(not pending.isdisjoint(batch) for batch in known + new)


def shard(group: ProgramGroup, batches: Sequence[list[str]], index: int, count: int) -> list[list[str]]:
    """Returns every `count`-th batch; where several groups have few, their first ones fall to different shares."""
    return [batch for i, batch in enumerate(batches, int(group.key, 16)) if i % count == index]


def _plan(workdir, group, size):
    """Returns the batches on record, and those of all other samples."""
    written = _read(workdir, group)
    known = written["batches"] if written["batch_size"] == size else []
    placed = {name for batch in known for name in batch}
    return known, _cut({name: settings for name, settings in group.requested.items() if name not in placed}, size)


def _cut(requested, size):
    """Returns batches of `size` of samples that can share one, in their order."""
    together = [list(group) for group in _group_by(requested, batch_key).values()]
    return [names[i : i + size] for names in together for i in range(0, len(names), size)]


def _group_by(
    requested: Mapping[str, SampleSettings], shared: Callable
) -> dict[tuple[tuple[str, Any], ...], dict[str, SampleSettings]]:
    """Groups samples by what `shared` returns, which is computed once for samples that differ only in their seed."""
    groups: dict[tuple[tuple[str, Any], ...], dict[str, SampleSettings]] = {}
    last, key = None, ()
    for name, settings in requested.items():
        if (own := _ALL_BUT_SEED(settings)) != last:
            last, key = own, tuple(shared(settings).items())
        groups.setdefault(key, {})[name] = settings
    return groups


def _path(workdir, group):
    """Returns the file on record for a group."""
    return workdir / FOLDER / f"{group.key}.json"


def _read(workdir, group):
    """Reads the batches on record."""
    try:
        return json.loads(_path(workdir, group).read_bytes())
    except (OSError, ValueError):  # there is none, or it cannot be read: it is planned again
        return {"batch_size": 0, "batches": []}
