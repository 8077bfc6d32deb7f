"""`python -m its_jax.colorize`, without its flags."""

import concurrent.futures
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from its_jax import gallery
from its_jax.colorize import outputs
from its_jax.colorize.colorizers import Colorizer, FactorizedColorizer, LatentColorizer
from its_jax.colorize.outputs import ColorTask
from its_jax.colorize.settings import Settings
from its_jax.errors import UserError
from its_jax.generate import record
from its_jax.pipeline.sampler import CPU_BATCH, OUT_OF_MEMORY
from its_jax.runtime import cache
from its_jax.storage import files, locks, samples

_LOCK = "colors"
_WRITERS = 2


def run(how: Settings, workdir: Path, select: str) -> None:
    """Colours finished samples: makes what is not there yet.

    Args:
      select: 'all', 'starred', or 'ID,ID'.

    Raises:
      UserError: nothing to colour, models that cannot be had, or what could not be made (named; all else is there).
    """
    made = outputs.select_samples(samples.open_samples(workdir), select, workdir)
    with locks.hold(workdir, _LOCK, advice="wait for it, or stop it"):
        todo, faults = _todo(how, made)
        logging.info("%d pictures of %d samples are to be made", len(todo), len(made))
        for painter, share in _shares(how, todo):
            faults += _Line(how, painter, share).run()
        told = _shown(workdir)
    if faults:
        raise UserError(f"not coloured: {'; '.join(faults)}")
    if told:  # a sample that cannot be coloured can as a rule not be shown either
        raise UserError("; ".join(told))


def _shown(workdir):
    """Writes the page over all that is there; returns what keeps it from that."""
    try:
        if files.is_local(workdir):
            logging.info("%s shows them", gallery.write(workdir))
    except UserError as error:
        return [str(error)]
    return []


def _todo(how, made):
    """The pictures that are missing, and what is wrong with samples that cannot be coloured; videos that are missing
    beside their pictures are made at once."""
    todo, faults = [], []
    for sample in made:
        try:
            trials = [how.of_trial(sample.record, trial) for trial in range(how.trials)]
            pictures, silent = outputs.missing(sample, trials, how.videos)
            for name in silent:
                outputs.write_video(sample, name, sample.read_image(name), sample.coloring_record(name))
            todo += pictures
        except UserError as error:
            faults.append(str(error))
    return todo, faults


def _shares(how: Settings, todo: Sequence[ColorTask]):
    """Painter, and what it is to make; one after the other, so that the models of one are in memory."""
    if todo:
        cache.keep_programs()
    source = lambda painting: painting.settings.get("latent_model", "")  # noqa: E731
    for model, share in itertools.groupby(sorted(todo, key=source), key=source):
        share = list(share)
        prompts = list(dict.fromkeys(painting.settings["prompt"] for painting in share))
        yield _painter(how, model, prompts), share


def _painter(how, model, prompts):
    try:
        return LatentColorizer(how, model, prompts) if model else FactorizedColorizer(how, prompts)
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        raise UserError(
            f"colorize.dtype={how.dtype}: the models are beyond the memory; set one of fewer bits, or smaller models"
        ) from error


class _Line:
    """Batches one after another, while threads write the one before."""

    def __init__(self, how: Settings, painter: Colorizer, todo: Sequence[ColorTask]):
        self._painter, self._todo, self._asked = painter, todo, how.batch_size
        most = how.batch_size or (min(how.trials, CPU_BATCH) if jax.default_backend() == "cpu" else how.trials)
        self._size = self._rounded(most)
        self._writing: list[tuple[ColorTask, concurrent.futures.Future]] = []

    def _rounded(self, size):
        return -(-size // self._painter.at_once) * self._painter.at_once

    def run(self) -> list[str]:
        """Makes and writes all; returns what could not be made. UserError: it cannot be written."""
        faults = []
        bar = tqdm(total=len(self._todo) * self._painter.steps, unit="step", desc="colour")
        with bar, concurrent.futures.ThreadPoolExecutor(_WRITERS) as writers:
            for alike in self._alike():
                while alike:
                    batch, pictures = self._made(alike, bar)
                    alike = alike[len(batch) :]
                    self._finish()
                    for place, (painting, picture) in enumerate(zip(batch, pictures, strict=False)):
                        if not np.isfinite(picture).all():
                            faults.append(f"{painting.label}: what the model gave is not finite; use another dtype")
                            continue
                        about = self._about(place)
                        self._writing.append((painting, writers.submit(outputs.write, painting, picture, about)))
            self._finish()
        return faults

    def _alike(self):
        """Lists of what can share a batch."""
        kind = lambda painting: (painting.levels.shape, *painting.seen.values())  # noqa: E731
        for _, alike in itertools.groupby(sorted(self._todo, key=kind), key=kind):
            yield list(alike)

    def _made(self, todo, bar):
        """A batch of the first of these, and its pictures; of fewer where the memory does not suffice."""
        start = bar.n
        while True:
            batch = list(todo[: self._size])
            filled, count = batch + [batch[-1]] * (self._size - len(batch)), len(batch)
            try:
                return batch, self._painter(
                    np.stack([painting.grey for painting in filled]),
                    [painting.settings["prompt"] for painting in filled],
                    [painting.settings["seed"] for painting in filled],
                    **batch[0].seen,
                    on_steps=lambda steps, count=count: bar.update(steps * count),
                )
            except jax.errors.JaxRuntimeError as error:
                self._check_can_shrink(error)
            self._size = self._rounded(self._size // 2)  # out of the except clause, which holds on to what failed
            bar.n = start

    def _check_can_shrink(self, error):
        if OUT_OF_MEMORY not in str(error):
            raise error
        if self._size == self._painter.at_once:
            hint = "set a dtype of fewer bits, or a window"
            raise UserError(f"one picture on each device is beyond the memory; {hint}") from error
        if self._asked:
            raise UserError(
                f"colorize.batch_size={self._asked} is beyond the memory; set it to less, or to 0"
            ) from error
        logging.warning("%d pictures at once are beyond the memory; going on with fewer", self._size)

    def _finish(self):
        while self._writing:
            _, writing = self._writing.pop(0)
            writing.result()

    def _about(self, place) -> Mapping[str, Any]:
        run = record.machine() | {"batch_size": self._size, "position": place}
        return {"models": self._painter.identities, "versions": record.versions(), "run": run}
