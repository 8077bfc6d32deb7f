"""The actor of a sweep on Ray, in a process of its own."""

import contextlib
import uuid
from collections.abc import Sequence
from typing import Any

from its_jax.runtime import cache
from its_jax.settings.ids import sample_id
from its_jax.settings.schema import RunOptions, SampleSettings
from its_jax.storage import files, locks, writers

ProgramArguments = tuple[str, Sequence[SampleSettings], int, int]  # see `Worker.load_program`
Report = tuple[list[str], dict[str, str]]  # see `Worker.run`


class Worker:
    """An actor: holds a pipeline, and writes the samples of a batch while it generates the next one."""

    def __init__(self, workdir: str, layout: str, options: RunOptions, scorers: str):
        from its_jax.generate.samples import writing
        from its_jax.pipeline.pipeline import Pipeline
        from its_jax.scoring import registry

        cache.keep_programs()
        self._options, self._pipeline = options, Pipeline()
        self._key = ""
        self._program: Any = None
        self._workdir, name = files.to_path(workdir), f"actor-{uuid.uuid4().hex[:10]}"
        self._store = writers.open_writer(layout, self._workdir, name)
        runner = writing(self._store, [], options, registry.load_scorers(scorers))
        self._life = contextlib.ExitStack()  # closed with the actor
        # The lock keeps others from removing unfinished files of this actor.
        self._life.enter_context(locks.hold(self._workdir, name))
        self._runner = self._life.enter_context(runner)

    def load_program(self, key: str, representatives: Sequence[SampleSettings], pending: int, batch_size: int) -> int:
        """Compiles the program of a group, if it is not the present one; returns its batch size.

        Args:
          key: of the group. representatives: one sample for each kind of batch.
          pending: the number of samples for this actor. batch_size: 0 to choose.

        Raises:
          UserError: as `its_jax.generate.groups.compile_group`.
        """
        from its_jax.generate.groups import compile_group

        if self._key != key:
            self._runner.finish()
            self._key, self._program = "", None
            self._program = compile_group(
                self._pipeline, representatives, self._workdir, pending, batch_size, self._options
            )
            self._key = key
        return self._program.batch_size

    def run(self, program: ProgramArguments, batch: Sequence[SampleSettings], requested: Sequence[bool]) -> Report:
        """Generates a batch and begins to write it.

        Args:
          program: arguments of `load_program`. requested: which samples of the batch are written.

        Returns:
          the ids of the samples that were written, and faults by id, since the last call.
        """
        from its_jax.generate.groups import run_batch

        self.load_program(*program)
        self._store.remove_leftovers(
            sample_id(one) for one, is_requested in zip(batch, requested, strict=True) if is_requested
        )
        run_batch(self._runner, self._program, batch, requested)
        return self._report()

    def finish(self) -> Report:
        """Waits until all samples are written; returns what `run` returns."""
        self._runner.finish()
        self._store.close()
        return self._report()

    def _report(self) -> Report:
        """Returns the ids of the samples that were written, and faults by id, since the last call."""
        written, faults = list(self._runner.written), dict(self._runner.faults)
        self._runner.written.clear()
        self._runner.faults.clear()
        return written, faults
