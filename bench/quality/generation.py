"""Generates the samples that the quality benchmarks need. It contains all uses of our pipeline in `bench/quality`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import default
from its_jax.benchmark.measure import stage_flops
from its_jax.pipeline.sampler import Sampler
from its_jax.settings.parse import expand
from its_jax.settings.schema import TERMS
from its_jax.tiny.evaluation import pairs, scores

BATCH = 12


def default_settings(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of configs/default.py with changes, such as {"image.start_step": 2}."""
    config = default.get_config()
    config.update_from_flattened_dict(changes)
    settings = config.to_dict()
    del settings["devices_per_sample"]  # it does not affect the samples
    return settings


def generate_pairs(
    settings: Mapping[str, Any], workdir: Path, wanted: Sequence[tuple[int, int, int]]
) -> dict[str, np.ndarray]:
    """Generates fused samples of (subject, sound, seed), or reads those that `workdir` contains.

    Returns:
      spectrogram, waveform, subject, sound and the models' mean denoising `error` of each sample, and the `gflop` of
      denoising one.
    """
    job = expand(settings, 1)[0]
    sampler = Sampler(job, pending=BATCH, batch_size=BATCH)
    samples = pairs.SampleCache(workdir, sampler, settings).samples("fused", wanted)
    errors = [scores.denoising_error(sampler.models[term], samples, term) for term in TERMS]
    gflop = stage_flops(sampler, job)["denoise"] / 1e9
    return {**samples, "error": np.mean(errors, axis=0), "gflop": np.float64(gflop)}


def generate_with_estimates(jobs: Sequence[Mapping[str, Any]]) -> Iterator[dict[int, np.ndarray]]:
    """Yields for each sample: step -> spectrogram `[H W]` in [0, 1] of the clean latent estimated after that step."""
    sampler = Sampler(jobs[0], pending=1, batch_size=1)
    estimates: dict[int, Any] = {}
    run = sampler._denoise

    def record_estimate(*args):
        state = run(*args)
        estimates[int(args[6])] = state.x0
        return state

    sampler._denoise = record_estimate
    for job in jobs:
        estimates.clear()
        (sample,) = sampler([job])
        decoded = {step: np.asarray(sampler._decode(x0, sampler.decoders)[0][0]) for step, x0 in estimates.items()}
        yield decoded | {max(decoded): sample.spectrogram}
