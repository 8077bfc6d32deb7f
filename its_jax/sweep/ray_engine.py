"""Runs a sweep on actors of Ray, which come and go, each with the chips that it requests.

The driver plans, hands out batches, and keeps its own account of written samples. A batch whose actor dies is generated
again by another one, at the same places in the batch, hence to the same bits. Each actor writes what it generates.
"""

import collections
import logging
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from its_jax.errors import UserError
from its_jax.generate import batches as batch_plan
from its_jax.generate.batches import ProgramGroup
from its_jax.settings.schema import RunOptions
from its_jax.storage import files, writers
from its_jax.sweep.ray_worker import ProgramArguments, Worker

MAX_DEATHS = 3  # A batch over which this many actors died is given up.
_WAIT_SECONDS = 5  # The size of the cluster is checked at least this often.


def run_on_ray(
    groups: Sequence[ProgramGroup],
    workdir: Path,
    done: Collection[str],
    *,
    options: RunOptions,
    layout: str = "folders",
    scorers: str = "",
    resources: Mapping[str, float] | None = None,
    address: str = "local",
) -> None:
    """Generates and writes the samples that are not done.

    Args:
      done: ids of finished samples. layout, scorers: their names.
      resources: of one actor, such as {"TPU": 4}; by default one TPU, GPU or CPU, whichever of them the cluster has.
      address: of a cluster, or "local" for one on this machine that ends with this process.

    Raises:
      UserError: Ray is not installed, there is not a cluster at the address, or some samples could not be generated
        (all others are written).
      DiskFull: raised at once.
    """
    ray = _connect(address)
    try:
        finished = writers.open_writer(layout, workdir).finished
        arguments = files.absolute_path(workdir), layout, options, scorers
        pool = ActorPool(ray, resources or _default_resources(ray), arguments, finished)
        missing = sum(len(group.requested.keys() - done) for group in groups)
        with tqdm(total=missing, unit="sample") as bar:
            faults = [fault for group in groups for fault in _run_group(pool, group, workdir, done, options, bar)]
            logging.info("%d samples in %s", bar.n, workdir)
    finally:
        ray.shutdown()
    if faults:
        raise UserError(f"not written: {'; '.join(faults)}")


def _run_group(
    pool: "ActorPool", group: ProgramGroup, workdir: Path, done: Collection[str], options: RunOptions, bar: tqdm
) -> list[str]:
    """Generates the missing samples of a group; returns its faults."""
    missing = group.requested.keys() - done
    if not missing:
        return []
    requested = options.batch_size or batch_plan.recorded_batch_size(workdir, group)
    pending = -(-len(group.requested) // pool.capacity())
    program = group.key, batch_plan.batch_representatives(group), pending, requested
    try:
        size = pool.batch_size(program)
    except UserError as error:  # of these settings; those of other groups may be right
        return [str(error)]
    batches = [batch for batch in batch_plan.plan_batches(workdir, group, size) if not missing.isdisjoint(batch)]
    return pool.run(group, program, batches, missing, bar)


def _connect(address: str) -> Any:
    """Connects to a Ray cluster and returns the module `ray`.

    Raises:
      UserError: Ray is not installed, or there is not a cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine=ray: Ray is not installed; pip install 'its_jax[ray]'") from error
    _check_reachable(address)
    try:
        # Not None but 'local', because with None Ray would join a cluster that was left running on this machine.
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--ray_address={address}: no Ray cluster found ({error})") from error
    return ray


def _check_reachable(address: str) -> None:
    """Raises `UserError` if nothing listens at an address.

    Ray itself would try for minutes and then end the process.
    """
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(f"--ray_address={address}: no Ray cluster found ({error.strerror or error})") from error


def _default_resources(ray: Any) -> dict[str, float]:
    """Returns one TPU, GPU or CPU, whichever of them the cluster has."""
    available = ray.cluster_resources()
    return {next((name for name in ("TPU", "GPU") if available.get(name)), "CPU"): 1}


class ActorPool:
    """Actors of Ray: as many as there is work for, and room in the cluster.

    Args of the constructor:
      ray: the module. resources: of one actor. arguments: of its `Worker`.
      finished: returns the ids of all written samples.
    """

    def __init__(
        self, ray: Any, resources: Mapping[str, float], arguments: Sequence[Any], finished: Callable[[], set[str]]
    ):
        self._ray, self._resources, self._arguments, self._finished = ray, resources, arguments, finished
        options = {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0)}
        others = {name: count for name, count in resources.items() if name not in ("CPU", "GPU")}
        self._actor = ray.remote(Worker).options(max_restarts=0, resources=others, **options)
        self._idle: list[Any] = []
        self._running: dict[Any, Any] = {}  # future -> actor
        self._unwritten: dict[Any, dict[int, set[str]]] = {}  # actor -> batch -> ids not reported as written

    def capacity(self) -> int:
        """Returns the number of actors for which the cluster has room."""
        available = self._ray.cluster_resources()
        return max(1, int(min(available.get(name, 0) // count for name, count in self._resources.items())))

    def batch_size(self, program: ProgramArguments) -> int:
        """Returns the batch size of a program, which one of the actors loads.

        Raises:
          UserError: the program cannot be loaded.
        """
        for _ in range(MAX_DEATHS):
            self._grow(1)
            actor = self._idle.pop()
            try:
                size = self._ray.get(actor.load_program.remote(*program))
            except self._ray.exceptions.RayTaskError as error:
                self._idle.append(actor)
                raise _unwrap(error) from error
            except self._ray.exceptions.RayError as error:
                self._discard(actor)
                last = error
                continue
            self._idle.append(actor)
            return size
        raise UserError(f"{MAX_DEATHS} actors died while they loaded a program ({last})")

    def run(
        self,
        group: ProgramGroup,
        program: ProgramArguments,
        batches: Sequence[Sequence[str]],
        missing: Collection[str],
        bar: tqdm,
    ) -> list[str]:
        """Generates batches of a group; returns the faults of those that could not be generated.

        Args:
          batches: ids. missing: ids of the samples to write. bar: progress bar, in steps of one sample.

        Raises:
          UserError: nothing can be written.
          DiskFull: raised at once.
        """
        waiting, faults = collections.deque(range(len(batches))), []
        deaths: collections.Counter[int] = collections.Counter()
        missing = set(missing)
        while waiting or self._running or any(self._unwritten.values()):
            self._grow(len(waiting))
            self._hand_out(group, program, batches, missing, waiting)
            ready, _ = self._ray.wait(list(self._running), timeout=_WAIT_SECONDS)
            for future in ready:
                actor = self._running.pop(future)
                try:
                    written, failed = self._ray.get(future)
                except self._ray.exceptions.RayTaskError as error:
                    raise _unwrap(error) from error
                except self._ray.exceptions.RayError as error:
                    lost = self._discard(actor)
                    logging.warning("an actor died (%s): %d batches are repeated", type(error).__name__, len(lost))
                    deaths.update(lost)
                    missing -= self._finished()  # The actor may have written samples that it did not report.
                    faults += [f"batch {i}: {MAX_DEATHS} actors died over it" for i in lost if deaths[i] == MAX_DEATHS]
                    waiting.extendleft(i for i in lost if deaths[i] < MAX_DEATHS)
                    continue
                self._settle(actor, {*written, *failed})
                missing -= {*written, *failed}
                faults += failed.values()
                bar.update(len(written))
        return faults

    def _settle(self, actor: Any, reported: set[str]) -> None:
        """Marks an actor as idle, and crosses off the samples that it has reported."""
        self._idle.append(actor)
        unwritten = self._unwritten[actor].items()
        self._unwritten[actor] = {i: left for i, ids in unwritten if (left := ids - reported)}

    def _hand_out(
        self,
        group: ProgramGroup,
        program: ProgramArguments,
        batches: Sequence[Sequence[str]],
        missing: set[str],
        waiting: collections.deque[int],
    ) -> None:
        """Gives idle actors a batch each, or lets them finish writing if no batches are waiting."""
        from its_jax.generate.groups import fill_batch

        for actor in list(self._idle):
            if waiting:
                i = waiting.popleft()
                self._unwritten[actor][i] = missing.intersection(batches[i])
                future = actor.run.remote(program, *fill_batch(group, batches[i], missing))
            elif self._unwritten[actor]:
                future = actor.finish.remote()
            else:
                continue
            self._idle.remove(actor)
            self._running[future] = actor

    def _grow(self, work: int) -> None:
        """Starts actors for this many batches, as long as there is room."""
        while len(self._unwritten) < min(self.capacity(), len(self._running) + work):
            actor = self._actor.remote(*self._arguments)
            self._unwritten[actor] = {}
            self._idle.append(actor)

    def _discard(self, actor: Any) -> list[int]:
        """Drops a dead actor and returns its unfinished batches."""
        self._ray.kill(actor)
        return list(self._unwritten.pop(actor))


def _unwrap(error: Any) -> Exception:
    """Unwraps our exception from a Ray error, if there is one."""
    return error.cause if isinstance(error.cause, UserError) else error
