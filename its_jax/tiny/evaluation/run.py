"""Every subject with every sound: samples, what judges say of them, and the errors of denoising them."""

import itertools
import logging

import numpy as np

from its_jax.media.images import contact_sheet, write_png
from its_jax.pipeline.sampler import Sampler
from its_jax.runtime import hardware
from its_jax.settings.parse import expand
from its_jax.settings.schema import TERMS
from its_jax.storage import files
from its_jax.storage.files import write_json
from its_jax.tiny import judges
from its_jax.tiny.data import items, pictures, sounds
from its_jax.tiny.evaluation import pairs, scores

_RUN_SETTINGS = ("seed", "num_samples", "batch_size", "devices_per_sample", "video")
_SUBJECTS, _SOUNDS = items.SUBJECTS, items.SOUNDS


def run(settings, workdir, *, seeds, singles, batch):
    """Writes WORKDIR/evaluation.json, and WORKDIR/contact_sheet.png: each subject once, each sound once."""
    with files.explain_os_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    sampler = Sampler(expand(settings, 1)[0], pending=batch, batch_size=batch)
    wanted = list(itertools.product(range(len(_SUBJECTS)), range(len(_SOUNDS)), range(seeds)))
    alone_pairs = [(i, i, s) for i in range(len(_SUBJECTS)) for s in range(singles)]
    store = pairs.Store(workdir, sampler, settings)
    alone = {kind: store.samples(kind, alone_pairs) for kind in TERMS}
    fused = store.samples("fused", wanted)
    judge = {kind: judges.load(kind) for kind in ("picture", "sound")}
    results = {kind: scores.judged(sampler, judge, alone[kind]) for kind in TERMS}
    results["fused"] = scores.judged(sampler, judge, fused)
    for name, blend in (("pixel_average", lambda a, b: (a + b) / 2), ("pixel_maximum", np.maximum)):
        results[name] = scores.judged(sampler, judge, pairs.blended(sampler, alone, wanted[::seeds], singles, blend))
    report = {name: scores.figures(result) for name, result in results.items()}
    report["machine"] = hardware.describe()
    report["models"] = {term: getattr(sampler, term).identity for term in TERMS}
    report["settings"] = {key: value for key, value in settings.items() if key not in _RUN_SETTINGS}
    report["counts"] = {name: len(result["subject"]) for name, result in results.items()}
    write_json(workdir / "evaluation.json", report)
    _write_contact_sheet(workdir / "contact_sheet.png", fused, results["fused"])
    for name in results:
        figures = {key: value for key, value in report[name].items() if not isinstance(value, dict)}
        logging.info("%-14s %s", name, figures)


def _write_contact_sheet(path, fused, result):
    """The diagonal of the table of pairs: of each pair the first sample that the judges accept, else the first."""
    pictures_, titles = [], []
    for i in range(len(_SUBJECTS)):
        of_pair = np.flatnonzero((fused["subject"] == i) & (fused["sound"] == i))
        right = result["picture_right"][of_pair] & result["sound_right"][of_pair]
        pictures_.append(fused["spectrogram"][of_pair[np.argmax(right)]] / np.float32(255))
        titles.append(f"{pictures.SUBJECTS[_SUBJECTS[i]][0]}\n{sounds.SOUNDS[_SOUNDS[i]][0]}")
    write_png(path, contact_sheet(pictures_, titles, 2), {})
