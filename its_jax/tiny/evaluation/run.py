"""Evaluates every subject with every sound: samples, the judges' classes, and the errors of denoising the samples."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from its_jax.media.images import contact_sheet, write_png
from its_jax.pipeline.pipeline import Pipeline
from its_jax.runtime import hardware
from its_jax.settings.parse import expand
from its_jax.settings.schema import RUN_TYPES, TERMS
from its_jax.storage import files
from its_jax.storage.files import write_json
from its_jax.tiny import judges
from its_jax.tiny.data import items, pictures, sounds
from its_jax.tiny.evaluation import pairs, scores

_RUN_SETTINGS = ("seed", *RUN_TYPES)
_BLENDS: dict[str, pairs.Blend] = {"pixel_average": lambda a, b: (a + b) / 2, "pixel_maximum": np.maximum}


def run(settings: Mapping[str, Any], workdir: Path, *, seeds: int, singles: int, batch: int) -> None:
    """Writes WORKDIR/evaluation.json, and WORKDIR/contact_sheet.png, which shows each subject and each sound once.

    Args:
      seeds: fused samples of each pair.
      singles: samples of each subject and of each sound alone.
      batch: the batch size.
    """
    with files.explain_os_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    program = Pipeline(settings).compile(expand(settings, 1)[0], pending=batch, batch_size=batch)
    models = program.components.models
    classes = range(items.CLASSES)
    fused_pairs = list(itertools.product(classes, classes, range(seeds)))
    alone_pairs = [(i, i, seed) for i in classes for seed in range(singles)]
    cache = pairs.SampleCache(workdir, program, settings)
    samples = {kind: cache.samples(kind, alone_pairs) for kind in TERMS}
    samples["fused"] = cache.samples("fused", fused_pairs)
    for name, function in _BLENDS.items():
        samples[name] = pairs.blend(program, samples, fused_pairs[::seeds], singles, function)
    judge = {kind: judges.load(kind) for kind in judges.KINDS}
    results = {name: scores.evaluate_samples(models, program.mel, judge, of_kind) for name, of_kind in samples.items()}
    summaries = {name: scores.summarize(result) for name, result in results.items()}
    about = {
        "machine": hardware.describe(),
        "models": {term: models[term].identity for term in TERMS},
        "settings": {key: value for key, value in settings.items() if key not in _RUN_SETTINGS},
        "counts": {name: len(result["subject"]) for name, result in results.items()},
    }
    write_json(workdir / "evaluation.json", summaries | about)
    _log(summaries)
    _write_contact_sheet(workdir / "contact_sheet.png", samples["fused"], results["fused"])


def _log(summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Logs the means over all samples."""
    for name, summary in summaries.items():
        logging.info("%-14s %s", name, {key: value for key, value in summary.items() if not isinstance(value, dict)})


def _write_contact_sheet(path: Path, fused: pairs.Samples, result: Mapping[str, np.ndarray]) -> None:
    """Writes the diagonal of the table of pairs, with the first sample of each pair that both judges accept, if any."""
    images, titles = [], []
    for i, (subject, sound) in enumerate(zip(items.SUBJECTS, items.SOUNDS, strict=True)):
        rows = np.flatnonzero((fused["subject"] == i) & (fused["sound"] == i))
        right = result["picture_right"][rows] & result["sound_right"][rows]
        images.append(fused["spectrogram"][rows[np.argmax(right)]] / np.float32(255))
        titles.append(f"{pictures.SUBJECTS[subject][0]}\n{sounds.SOUNDS[sound][0]}")
    write_png(path, contact_sheet(images, titles, 2), {})
