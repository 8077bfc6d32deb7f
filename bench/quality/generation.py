"""Generates the samples that the quality benchmarks need. It contains all uses of our pipeline in `bench/quality`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import default
from its_jax import Pipeline
from its_jax.benchmark.measure import stage_flops
from its_jax.pipeline.progress import Progress
from its_jax.settings.parse import expand
from its_jax.settings.schema import TERMS, SampleSettings
from its_jax.tiny.evaluation import pairs, scores

BATCH = 12


def default_settings(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of configs/default.py with changes, such as {"image.start_step": 2}."""
    config = default.get_config()
    config.update_from_flattened_dict(changes)
    settings = config.to_dict()
    del settings["devices_per_sample"], settings["loudness"]  # They do not affect the samples.
    return settings


def generate_pairs(settings: Mapping[str, Any], workdir: Path, wanted: Sequence[pairs.Pair]) -> dict[str, np.ndarray]:
    """Generates fused samples of (subject, sound, seed), or reads those that `workdir` contains.

    Returns:
      spectrogram, waveform, subject, sound and the models' mean denoising `error` of each sample, and the `gflop` of
      denoising one.
    """
    (one,) = expand(settings, 1)
    program = Pipeline(settings).compile(one, pending=BATCH, batch_size=BATCH)
    samples = pairs.SampleCache(workdir, program, settings).samples("fused", wanted)
    models = program.components.models
    errors = [scores.denoising_error(models[term], samples, term) for term in TERMS]
    gflop = stage_flops(program.components, one)["denoise"] / 1e9
    return {**samples, "error": np.mean(errors, axis=0), "gflop": np.float64(gflop)}


def generate_with_estimates(requested: Sequence[SampleSettings]) -> Iterator[dict[int, np.ndarray]]:
    """Yields for each sample: step -> image `[H W 3]` in [0, 1] of the clean latent estimated after that step."""
    program = Pipeline().compile(requested[0], batch_size=1)
    for settings in requested:
        estimates: dict[int, np.ndarray] = {}

        def record(progress: Progress, estimates=estimates) -> None:
            (estimates[progress.step],) = progress.preview()

        program([settings], record)
        yield estimates
