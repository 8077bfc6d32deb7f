"""Colorizes batches of tasks, for `its_jax.generate.runner`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from its_jax.colorize.colorizer import Colorizer
from its_jax.colorize.outputs import ColorTask
from its_jax.colorize.settings import ColorSettings
from its_jax.pipeline import progress, record
from its_jax.pipeline.batching import CPU_BATCH, check_can_shrink, fill_up
from its_jax.pipeline.progress import OnProgress


class ColorResult(NamedTuple):
    """A colored image, and the part of its record that says how it was generated."""

    image: np.ndarray  # float32 [H W 3] in [0, 1]
    about: Mapping[str, Any]

    @property
    def fault(self) -> str | None:
        """Returns why the image cannot be written, or None."""
        return None if np.isfinite(self.image).all() else "the model's result is not finite; use another dtype"


class ColorProgram:
    """Colorizes batches; see `its_jax.pipeline.batching.run_fitting`. The tasks of a batch agree in `batch_key`.

    Attributes:
      batch_size: images at once, a multiple of those that the devices colorize at once.
    """

    def __init__(self, colorizer: Colorizer, settings: ColorSettings):
        self._colorizer, self._requested = colorizer, settings.batch_size
        limit = min(settings.trials, CPU_BATCH) if jax.default_backend() == "cpu" else settings.trials
        self.batch_size = self._round(settings.batch_size or limit)

    def _round(self, size):
        return -(-size // self._colorizer.at_once) * self._colorizer.at_once

    def _half(self):
        return self._round(max(1, self.batch_size // 2))

    def __call__(
        self, batch: Sequence[ColorTask], on_progress: OnProgress = progress.ignore, *, batch_index: int = 0
    ) -> list[ColorResult]:
        """Colorizes up to `batch_size` tasks; a smaller batch is filled up with copies.

        Args:
          batch_index: index of the first task in the batch.
        """
        filled = fill_up(batch, self.batch_size, batch_index)
        images = self._colorizer(
            np.stack([task.gray for task in filled]),
            [task.settings["prompt"] for task in filled],
            [task.settings["seed"] for task in filled],
            view=batch[0].view,
            wrap=batch[0].wrap,
            on_progress=on_progress,
        )
        return [ColorResult(images[i], self._about(i)) for i in range(batch_index, batch_index + len(batch))]

    def _about(self, batch_index):
        run = record.machine() | {"batch_size": self.batch_size, "position": batch_index}
        return {"models": self._colorizer.identities, "versions": record.versions(), "run": run}

    def shrink(self) -> None:
        """Halves the batch size."""
        self.batch_size = self._half()

    def check_can_shrink(self, error: jax.errors.JaxRuntimeError) -> None:
        """Logs that a batch does not fit in memory, if a smaller one may.

        Raises:
          UserError: the batch size was requested, or is the smallest possible.
          JaxRuntimeError: `error` has another cause.
        """
        adjustable, remedy = not self._requested, "set a dtype of fewer bits, or a window"
        size, smaller = self.batch_size, self._half()
        check_can_shrink(error, "colorize.batch_size", size, smaller, adjustable=adjustable, remedy=remedy)
