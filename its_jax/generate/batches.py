"""Jobs -> batches, the same ones at every run: which jobs share a program, and which are made together.

What a sample's last bits are can depend on its place in a batch. So the batches of a work folder are written down when
they are first made up: a run that goes on, or one on another host, makes the same ones. Jobs that a grid gains later
have batches of their own.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.settings.ids import batch_key, program_key
from its_jax.storage import files, locks

FOLDER = "plan"


@dataclasses.dataclass(frozen=True)
class ProgramGroup:
    """Jobs that share compiled programs.

    Attributes:
      key: 10 hexadecimal digits over what they share. jobs: by id.
    """

    key: str
    jobs: Mapping[str, Mapping[str, Any]]


def program_groups(todo: Mapping[str, Mapping[str, Any]]) -> list[ProgramGroup]:
    """Jobs by id -> those that share programs, in the order of the first of each."""
    found = _group_by(todo, program_key)
    return [ProgramGroup(hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10], of) for key, of in found.items()]


def batch_representatives(group: ProgramGroup) -> list[Mapping[str, Any]]:
    """One job for each kind of batch."""
    return [next(iter(of.values())) for of in _group_by(group.jobs, batch_key).values()]


def recorded_batch_size(workdir: Path, group: ProgramGroup) -> int:
    """Of the batches that are written down; 0: there are none."""
    return _read(workdir, group)["batch_size"]


def plan_batches(workdir: Path, group: ProgramGroup, size: int, alone: bool = True) -> list[list[str]]:
    """The batches of a group, as ids of `size` jobs or fewer, after having written down those that are new.

    Some of the ids may be of jobs that the grid has lost since. Batches of another size are made up anew; not so if
    other processes may be at work on them (not `alone`): then their size counts.

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
    """How many batches of `size` are to be made; writes nothing."""
    known, new = _plan(workdir, group, size)
    wanted = group.jobs.keys() - done
    return sum(not wanted.isdisjoint(batch) for batch in known + new)


def shard(group: ProgramGroup, made_up: Sequence[list[str]], index: int, count: int) -> list[list[str]]:
    """Every `count`-th batch; where several groups have few, their first ones fall to different shares."""
    return [batch for i, batch in enumerate(made_up, int(group.key, 16)) if i % count == index]


def _plan(workdir, group, size):
    """The batches that are written down, and those of all other jobs."""
    written = _read(workdir, group)
    known = written["batches"] if written["batch_size"] == size else []
    placed = {name for batch in known for name in batch}
    return known, _cut({name: job for name, job in group.jobs.items() if name not in placed}, size)


def _cut(todo, size):
    """Those that can share a batch, in their order, by `size`."""
    together = [list(of) for of in _group_by(todo, batch_key).values()]
    return [names[i : i + size] for names in together for i in range(0, len(names), size)]


def _group_by(todo, what):
    """Jobs by id, by what they must share; of one that differs from the last in its seed alone, that is known."""
    found, last = {}, {}
    for name, job in todo.items():
        if last | {"seed": job["seed"]} != job:
            key = tuple(what(job).items())
        last = job
        found.setdefault(key, {})[name] = job
    return found


def _path(workdir, group):
    return workdir / FOLDER / f"{group.key}.json"


def _read(workdir, group):
    try:
        return json.loads(_path(workdir, group).read_bytes())
    except (OSError, ValueError):  # there is none, or none that can be read: it is made up anew
        return {"batch_size": 0, "batches": []}
