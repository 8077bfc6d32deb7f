"""`python -m its_jax.sweep` with noise in place of models, for tests that kill it, and the fake pipeline by itself."""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import its_jax.generate.groups  # noqa: F401  Slow imports come before the plan, so that kills after it hit the work.
from its_jax.pipeline import progress
from its_jax.pipeline.sample import Sample
from its_jax.settings.schema import SampleSettings
from its_jax.settings.steps import image_terms, total_steps


class FakeProgram:
    """A program whose samples are noise. Like the last bits of real samples, the noise depends on the batch index."""

    def __init__(self, batch_size: int, seconds: float):
        self.batch_size, self._seconds = batch_size, seconds

    def check(self, batch: Sequence[SampleSettings]) -> None:
        """Accepts all settings."""

    def check_init_file(self, settings: SampleSettings) -> None:
        """Accepts all files."""

    def warn(self, batch: Sequence[SampleSettings]) -> None:
        """Logs nothing."""

    def __call__(
        self, batch: Sequence[SampleSettings], on_progress: progress.OnProgress, *, batch_index: int = 0
    ) -> list[Sample]:
        time.sleep(self._seconds)
        steps = total_steps(batch[0])
        on_progress(progress.Progress(steps, steps, lambda: []))
        return [self._sample(settings, i) for i, settings in enumerate(batch, batch_index)]

    def _sample(self, settings, index):
        rng = np.random.default_rng([settings.seed, len(settings.terms["image"].prompt), index])
        h, w = settings.height, settings.width
        stages = ("load", "compile", "encode", "denoise", "decode", "vocode")
        return Sample(
            settings=settings,
            images={term: rng.random((h, w, 3), np.float32) for term in image_terms(settings)},
            spectrogram=rng.random((h, w), np.float32),
            audio=rng.uniform(-1, 1, w * 160).astype(np.float32),
            sampling_rate=16000,
            latents=rng.standard_normal((h // 8, w // 8, 4)).astype(np.float32),
            batch_index=index,
            batch_size=self.batch_size,
            seconds=dict.fromkeys(stages, 0.1),
        )


class FakePipeline:
    """Stands in for `its_jax.Pipeline`, without models.

    Args of the constructor:
      seconds: the duration of a batch.

    Attributes:
      compiled: arguments of each call of `compile`, the settings as 'settings'.
    """

    def __init__(self, seconds: float = 0.0):
        self._seconds = seconds
        self.compiled: list[dict] = []

    def compile(self, settings: SampleSettings, **options) -> FakeProgram:
        self.compiled.append({"settings": settings, **options})
        return FakeProgram(options["batch_size"] or 4, self._seconds)


if __name__ == "__main__":
    from its_jax.runtime import cli
    from its_jax.sweep.__main__ import main  # defines the flags

    sys.argv[0] = "sweep"
    fake: Any = FakePipeline(float(os.environ.get("SECONDS_OF_BATCH", "0.05")))
    cli.run(lambda: main(fake))
