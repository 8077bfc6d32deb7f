"""`python -m its_jax.sweep` with noise of each seed in place of models: for tests that kill it."""

import os
import sys
import time
import types

import numpy as np

from its_jax.generate import groups
from its_jax.pipeline.sampler import Sample
from its_jax.runtime import cli
from its_jax.settings.steps import image_terms

SECONDS_OF_BATCH = float(os.environ.get("SECONDS_OF_BATCH", "0.05"))


class Noise:
    """Stands in for `its_jax.pipeline.sampler.Sampler`."""

    devices_per_sample, seconds = 1, {"load": 1.0, "compile": 1.0}
    models, mel = {}, types.SimpleNamespace(sampling_rate=16000)

    def __init__(self, settings, *, pending, batch_size=0, devices_per_sample=1, may_shrink=False):
        self.batch_size = batch_size or 4

    def tables(self, batch):
        return None

    def warn(self, requested):
        return None

    def __call__(self, batch, on_steps=lambda steps: None, *, position=0):
        time.sleep(SECONDS_OF_BATCH)
        on_steps(len(batch) * batch[0].num_steps)
        return [self.sample(settings, place) for place, settings in enumerate(batch, position)]

    def sample(self, settings, place):
        """Its latents depend on the place, as those of a real batch may."""
        rng = np.random.default_rng([settings.seed, len(settings.terms["image"].prompt), place])
        h, w = settings.height, settings.width
        pictures = {term: rng.random((h, w, 3), np.float32) for term in image_terms(settings)}
        seconds = {stage: 0.1 for stage in ("load", "compile", "encode", "denoise", "decode", "vocode")}
        return Sample(
            pictures,
            rng.random((h, w), np.float32),
            rng.uniform(-1, 1, w * 160).astype(np.float32),
            rng.standard_normal((h // 8, w // 8, 4)).astype(np.float32),
            position=place,
            batch_size=self.batch_size,
            failed_at=-1,
            seconds=seconds,
        )


if __name__ == "__main__":
    groups.Sampler = Noise
    sys.argv[0] = "sweep"
    from its_jax.sweep.__main__ import main

    cli.run(main)
