"""A sweep on a fleet, by Ray: actors that come and go make its batches, each with the chips that it asks for.

The driver plans, hands out batches, and keeps its own record of what is written: a batch whose actor dies is made by
another one, at the same places, hence to the same bits. Each actor writes what it makes.
"""

import collections
import contextlib
import logging
import socket
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from its_jax.errors import UserError
from its_jax.generate import batches as generate_batches
from its_jax.runtime import cache
from its_jax.settings.ids import sample_id
from its_jax.settings.schema import RunOptions, SampleSettings
from its_jax.storage import files, locks, writers

MAX_DEATHS = 3  # of actors over one batch, before it is given up
_WAIT_SECONDS = 5  # between looks at how large the cluster is


def run_on_ray(
    groups: Sequence[generate_batches.ProgramGroup],
    workdir: Path,
    done: Collection[str],
    *,
    options: RunOptions,
    layout: str = "folders",
    scorers: str = "",
    resources: Mapping[str, float] | None = None,
    address: str = "local",
) -> None:
    """Makes and writes what is not done.

    Args:
      done: ids. layout, scorers: by their names.
      resources: what one actor takes, such as {"TPU": 4}; None: one of what the cluster has of TPU, GPU or CPU.
      address: of a cluster, or "local" for one on this machine that ends with this process.

    Raises:
      UserError: Ray is not installed, or has no cluster there; what could not be made (all others are written).
      DiskFull: at once.
    """
    ray = _ray(address)
    try:
        finished = writers.open_writer(layout, workdir).finished
        fleet = ActorPool(
            ray, resources or _resources(ray), (files.absolute_path(workdir), layout, options, scorers), finished
        )
        left = sum(len(group.requested.keys() - done) for group in groups)
        with tqdm(total=left, unit="sample") as bar:
            faults = [fault for group in groups for fault in _make_group(fleet, group, workdir, done, options, bar)]
            logging.info("%d samples in %s", bar.n, workdir)
    finally:
        ray.shutdown()
    if faults:
        raise UserError(f"not written: {'; '.join(faults)}")


def _make_group(fleet, group, workdir, done, options, bar):
    """Faults of a group, after all else of it is written."""
    wanted = group.requested.keys() - done
    if not wanted:
        return []
    batch_size = options.batch_size or generate_batches.recorded_batch_size(workdir, group)
    pending = -(-len(group.requested) // fleet.capacity())
    begin = group.key, generate_batches.batch_representatives(group), pending, batch_size
    try:
        size = fleet.batch_size(begin)
    except UserError as error:  # of these settings; those of other groups may be right
        return [str(error)]
    batches = [batch for batch in generate_batches.plan_batches(workdir, group, size) if not wanted.isdisjoint(batch)]
    return fleet.make(group, begin, batches, wanted, bar)


def _ray(address):
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine=ray: Ray is not installed; pip install 'its_jax[ray]'") from error
    _check_reachable(address)
    try:
        # 'local', or else Ray would join a cluster that was left running here.
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--ray_address={address}: there is no Ray cluster ({error})") from error
    return ray


def _check_reachable(address):
    """Ray itself would try for minutes, and then end the process."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(f"--ray_address={address}: there is no Ray cluster ({error.strerror or error})") from error


def _resources(ray):
    there = ray.cluster_resources()
    return {next((name for name in ("TPU", "GPU") if there.get(name)), "CPU"): 1}


class ActorPool:
    """Actors, as many as the cluster has room for at any time and there is work for.

    Args:
      resources: of one actor. arguments: of its `Worker`. finished: gives the ids of all that is written.
    """

    def __init__(self, ray, resources, arguments, finished):
        self._ray, self._resources, self._arguments, self._finished = ray, resources, arguments, finished
        options = {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0)}
        others = {name: count for name, count in resources.items() if name not in ("CPU", "GPU")}
        self._actor = ray.remote(Worker).options(max_restarts=0, resources=others, **options)
        self._idle, self._running = [], {}  # future -> actor
        self._given = {}  # actor -> batch -> ids that it has not told to be written

    def capacity(self) -> int:
        there = self._ray.cluster_resources()
        return max(1, int(min(there.get(name, 0) // count for name, count in self._resources.items())))

    def batch_size(self, begin):
        """Of a group, by an actor that begins it. UserError: it cannot be begun."""
        for _ in range(MAX_DEATHS):
            self._grow(1)
            actor = self._idle.pop()
            try:
                size = self._ray.get(actor.load_program.remote(*begin))
            except self._ray.exceptions.RayTaskError as error:
                self._idle.append(actor)
                raise _unwrap(error) from error
            except self._ray.exceptions.RayError as error:
                self._discard(actor)
                last = error
                continue
            self._idle.append(actor)
            return size
        raise UserError(f"{MAX_DEATHS} actors died when they began a program ({last})")

    def make(self, group, begin, batches, wanted, bar):
        """Makes batches of a group; gives faults. DiskFull, UserError: at once, if nothing can be written."""
        waiting, deaths, faults = collections.deque(range(len(batches))), collections.Counter(), []
        wanted = set(wanted)
        while waiting or self._running or any(self._given.values()):
            self._grow(len(waiting))
            self._hand_out(group, begin, batches, wanted, waiting)
            ready, _ = self._ray.wait(list(self._running), timeout=_WAIT_SECONDS)
            for future in ready:
                actor = self._running.pop(future)
                try:
                    written, failed = self._ray.get(future)
                except self._ray.exceptions.RayTaskError as error:
                    raise _unwrap(error) from error
                except self._ray.exceptions.RayError as error:
                    lost = self._discard(actor)
                    logging.warning("an actor died (%s): %d batches are made again", type(error).__name__, len(lost))
                    deaths.update(lost)
                    wanted -= self._finished()  # what it wrote without having told
                    faults += [f"batch {i}: {MAX_DEATHS} actors died over it" for i in lost if deaths[i] == MAX_DEATHS]
                    waiting.extendleft(i for i in lost if deaths[i] < MAX_DEATHS)
                    continue
                self._idle.append(actor)
                faults += failed.values()
                wanted -= written.keys() | failed.keys()
                bar.update(len(written))
                self._given[actor] = {
                    i: left for i, ids in self._given[actor].items() if (left := ids - written.keys() - failed.keys())
                }
        return faults

    def _hand_out(self, group, begin, batches, wanted, waiting):
        from its_jax.generate.groups import fill_batch

        for actor in list(self._idle):
            if waiting:
                i = waiting.popleft()
                self._given[actor][i] = wanted.intersection(batches[i])
                future = actor.run.remote(begin, *fill_batch(group, batches[i], wanted))
            elif self._given[actor]:
                future = actor.finish.remote()
            else:
                continue
            self._idle.remove(actor)
            self._running[future] = actor

    def _grow(self, work):
        while len(self._given) < min(self.capacity(), len(self._running) + work):
            actor = self._actor.remote(*self._arguments)
            self._given[actor] = {}
            self._idle.append(actor)

    def _discard(self, actor):
        """Batches of which it has not told that all is written."""
        self._ray.kill(actor)
        return list(self._given.pop(actor))


def _unwrap(error):
    """The exception of ours in one of Ray's, or Ray's."""
    return error.cause if isinstance(error.cause, UserError) else error


class Worker:
    """An actor: holds a pipeline, and writes the samples of a batch while it generates the next one."""

    def __init__(self, workdir: str, layout: str, options: RunOptions, scorers: str):
        from its_jax.generate.samples import writing
        from its_jax.pipeline.pipeline import Pipeline
        from its_jax.scoring import registry

        cache.keep_programs()
        self._options, self._pipeline = options, Pipeline()
        self._key: str | None = None
        self._program: Any = None
        self._workdir, name = files.to_path(workdir), f"actor-{uuid.uuid4().hex[:10]}"
        self._store = writers.open_writer(layout, self._workdir, name)
        runner = writing(self._store, [], video=options.video, scorers=registry.load_scorers(scorers))
        self._life = contextlib.ExitStack()  # closed with the actor
        # The lock keeps others from removing unfinished files of this actor.
        self._life.enter_context(locks.hold(self._workdir, name))
        self._runner = self._life.enter_context(runner)

    def load_program(self, key: str, representatives: Sequence[SampleSettings], pending: int, batch_size: int) -> int:
        """Compiles the program of a group, if it is not the present one; returns its batch size."""
        from its_jax.generate.groups import compile_group

        if self._key != key:
            self._runner.finish()
            self._program = self._key = None  # frees its memory for the next one
            self._program = compile_group(
                self._pipeline, representatives, self._workdir, pending, batch_size, self._options
            )
            self._key = key
        return self._program.batch_size

    def run(
        self, program: tuple[Any, ...], batch: Sequence[SampleSettings], wanted: Sequence[bool]
    ) -> tuple[dict[str, bool], dict[str, str]]:
        """Generates a batch and begins to write it; returns what `_report` returns.

        Args:
          program: arguments of `load_program`.
        """
        self.load_program(*program)
        self._store.remove_leftovers(sample_id(one) for one, is_wanted in zip(batch, wanted, strict=True) if is_wanted)
        self._runner.run_all(self._program, batch, wanted)
        return self._report()

    def finish(self) -> tuple[dict[str, bool], dict[str, str]]:
        """Waits until all samples are written; returns what `_report` returns."""
        self._runner.finish()
        self._store.close()
        return self._report()

    def _report(self):
        """Returns the ids of what was written, and faults by id, since the last call."""
        written, faults = dict.fromkeys(self._runner.written, True), dict(self._runner.faults)
        self._runner.written.clear()
        self._runner.faults.clear()
        return written, faults
