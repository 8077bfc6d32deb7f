"""Runs batches one after another, while threads write the results of the batch before."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from its_jax.errors import UserError
from its_jax.pipeline.batching import run_fitting

_THREADS = 2


class BatchRunner:
    """Runs batches. No more than two of them are in memory: one that is computed, and one that is written.

    Args of the constructor:
      bar: progress bar, in steps of one item. threads: run `write`.
      write: writes the result of an item.
      name: returns the name of an item. fault: returns why a result cannot be written, or None.
      flush: called with the results of a batch once all of them are written.

    Attributes:
      written: names of items whose results are written. faults: name -> why it could not be written.
    """

    def __init__(
        self,
        bar: tqdm,
        threads: concurrent.futures.Executor,
        write: Callable[[Any, Any], None],
        *,
        name: Callable[[Any], str],
        fault: Callable[[Any], str | None],
        flush: Callable[[Sequence[Any]], None] = lambda results: None,
    ):
        self._bar, self._threads, self._write = bar, threads, write
        self._name, self._fault, self._flush = name, fault, flush
        self._writing: list[tuple[str, concurrent.futures.Future]] = []
        self._results: Sequence[Any] = []
        self.written: list[str] = []
        self.faults: dict[str, str] = {}

    def run(
        self, program: Any, batch: Sequence[Any], *, batch_index: int = 0, requested: Sequence[bool] | None = None
    ) -> int:
        """Computes as many of the first items of a batch as fit in memory, and begins to write their results.

        Args:
          program: see `run_fitting`. batch_index: index of the first item in the batch.
          requested: which results are written; by default all.

        Returns:
          the number of items that were computed.

        Raises:
          UserError: a result of the batch before cannot be written, or the batch does not fit in memory.
        """
        requested = [True] * len(batch) if requested is None else requested
        start = self._bar.n

        def report(progress):
            items = min(len(batch), program.batch_size - batch_index)
            self._bar.update(start + progress.step * sum(requested[:items]) - self._bar.n)

        results = run_fitting(program, batch, report, batch_index=batch_index)
        self.finish()
        self._results = results
        for item, result, is_requested in zip(batch, results, requested, strict=False):
            name = self._name(item)
            if is_requested and (fault := self._fault(result)):
                self.faults[name] = f"{name}: {fault}"
            elif is_requested:
                self._writing.append((name, self._threads.submit(self._write, item, result)))
        return len(results)

    def run_all(self, program: Any, batch: Sequence[Any], requested: Sequence[bool] | None = None) -> None:
        """Computes a batch up to its last requested item, in several parts if it does not fit in memory."""
        requested = [True] * len(batch) if requested is None else requested
        done = 0
        while any(requested[done:]):
            done += self.run(program, batch[done:], requested=requested[done:])

    def finish(self) -> None:
        """Waits until all results are written.

        Raises:
          UserError: one of them cannot be written; the message names all faults so far.
        """
        try:
            while self._writing:
                name, writing = self._writing.pop(0)
                writing.result()
                self.written.append(name)
            self._flush(self._results)
            self._results = []
        except UserError as error:
            raise type(error)("; ".join([str(error), *self.faults.values()])) from error


@contextlib.contextmanager
def running(steps: int, write: Callable[[Any, Any], None], *, label: str, **options: Any) -> Iterator[BatchRunner]:
    """Gives a `BatchRunner`; when the context ends without an error, everything is written.

    Args:
      steps: of all items, for the progress bar. label: of the progress bar. write, options: see `BatchRunner`.
    """
    bar = tqdm(total=steps, unit="step", desc=label)
    with bar, concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        runner = BatchRunner(bar, threads, write, **options)
        yield runner
        runner.finish()
