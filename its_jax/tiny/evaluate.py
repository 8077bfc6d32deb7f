"""How good the embedded models are: `python -m its_jax.tiny.evaluate --config=configs/default.py --workdir=FOLDER`.

Samples every subject with every sound at the config's settings, and each model alone, through the functions that
`its_jax.sample` runs. Judges (`its_jax.tiny.judges`) say what the picture shows and what the sound, analysed again from
the vocoder's waveform, is. Since judges accept plain blends too, the error with which each model denoises the finished
sample is given beside: it tells how likely the sample is under the model. Writes evaluation.json; resumable.
"""

import hashlib
import itertools
import json
import logging
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import config_flags

from its_jax import cli, stages
from its_jax.errors import UserError
from its_jax.jobs import TERMS, expand
from its_jax.media import contact_sheet, write_json, write_png
from its_jax.sampler import Sampler
from its_jax.tiny import data, judges, pictures, scores, sounds
from its_jax.tiny.export import machine

_CONFIG = config_flags.DEFINE_config_file("config", None, "The settings to evaluate.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where samples and evaluation.json go.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 4, "Fused samples of each pair.", lower_bound=1)
_SINGLES = flags.DEFINE_integer("singles", 12, "Samples of each subject and of each sound alone.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 12, "Samples at once.", lower_bound=1)

_RUN_SETTINGS = ("seed", "num_samples", "batch_size", "video")
_SUBJECTS, _SOUNDS = data.SUBJECTS, data.SOUNDS


def main():
    if _CONFIG.value is None:
        raise UserError("give --config=FILE.py, say configs/default.py")
    run(_CONFIG.value, Path(_WORKDIR.value), seeds=_SEEDS.value, singles=_SINGLES.value, batch=_BATCH.value)


def run(config, workdir, *, seeds, singles, batch):
    """Writes WORKDIR/evaluation.json, and WORKDIR/contact_sheet.png: each sound once, with another subject."""
    workdir.mkdir(parents=True, exist_ok=True)
    settings = config.to_dict()
    sampler = Sampler(expand(settings, 1)[0], pending=batch, batch_size=batch)
    pairs = list(itertools.product(range(len(_SUBJECTS)), range(len(_SOUNDS)), range(seeds)))
    alone_pairs = [(i, i, s) for i in range(len(_SUBJECTS)) for s in range(singles)]
    store = _Store(workdir, sampler, settings)
    alone = {kind: store.samples(kind, alone_pairs) for kind in TERMS}
    fused = store.samples("fused", pairs)
    judge = {kind: judges.load(kind) for kind in ("picture", "sound")}
    results = {kind: scores.judged(sampler, judge, alone[kind]) for kind in TERMS}
    results["fused"] = scores.judged(sampler, judge, fused)
    for name, blend in (("pixel_average", lambda a, b: (a + b) / 2), ("pixel_maximum", np.maximum)):
        results[name] = scores.judged(sampler, judge, _blended(sampler, alone, pairs[::seeds], singles, blend))
    report = {name: scores.figures(result) for name, result in results.items()}
    report["machine"] = machine()
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


class _Store:
    """Samples of one sampler and one set of settings, kept in a folder batch by batch."""

    def __init__(self, workdir, sampler, settings):
        self.sampler, self.settings = sampler, settings
        of = [settings, sampler.image.identity, sampler.audio.identity]
        self.folder = workdir / "samples" / hashlib.sha256(json.dumps(of).encode()).hexdigest()[:10]
        self.folder.mkdir(parents=True, exist_ok=True)

    def samples(self, kind, wanted):
        """Arrays of all wanted (subject, sound, seed); `kind` 'image' or 'audio' leaves the other model out."""
        size = self.sampler.batch_size
        batches = []
        for start in range(0, len(wanted), size):
            batches.append(self._batch(kind, wanted[start : start + size]))
            logging.info("%s: %d of %d samples", kind, min(start + size, len(wanted)), len(wanted))
        arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        return arrays | {"subject": np.array([w[0] for w in wanted]), "sound": np.array([w[1] for w in wanted])}

    def _batch(self, kind, wanted):
        name = hashlib.sha256(json.dumps([kind, wanted]).encode()).hexdigest()[:10]
        path = self.folder / f"{kind}_{name}.npz"
        if not path.exists():
            made = self.sampler([_job(self.settings, *what, kind) for what in wanted])
            with open(path.with_suffix(".tmp"), "wb") as file:
                np.savez(
                    file,
                    spectrogram=np.stack([data.to_bytes(sample.spectrogram) for sample in made]),
                    latents=np.stack([sample.latents for sample in made]),
                    waveform=np.stack([sample.waveform for sample in made]),
                )
            path.with_suffix(".tmp").replace(path)
        return dict(np.load(path))


def _job(settings, subject, sound, seed, kind):
    """The settings of one sample; `kind` 'image' or 'audio' leaves the other model out."""
    rng = data.generator("captions", "held_out", (subject * len(_SOUNDS) + sound) * 1000 + seed)
    prompts = {
        "image": pictures.caption(_SUBJECTS[subject], rng),
        "audio": sounds.caption(_SOUNDS[sound], rng),
    }
    job = settings | {"seed": (subject * len(_SOUNDS) + sound) * 1000 + seed}
    for term in TERMS:
        job[term] = settings[term] | {"prompt": prompts[term]}
        if kind == term:
            job[term] |= {"weight": 1.0, "start_step": 0}
        elif kind in TERMS:
            job[term] |= {"weight": 0.0}
    return expand(job, 1)[0]


def _blended(sampler, alone, pairs, singles, blend):
    """What a plain blend of the two single-model samples gives; with each partner another of the samples alone."""
    a = np.array([subject * singles + sound % singles for subject, sound, _ in pairs])
    b = np.array([sound * singles + subject % singles for subject, sound, _ in pairs])
    spectrogram = blend(
        alone["image"]["spectrogram"][a] / np.float32(255), alone["audio"]["spectrogram"][b] / np.float32(255)
    )
    vae, vocoder = sampler.image.vae, sampler.audio.vocoder
    blocks = np.split(spectrogram, len(spectrogram) // scores.BATCH)
    return {
        "spectrogram": data.to_bytes(spectrogram),
        "latents": np.concatenate([stages.encode_picture(vae, np.repeat(x[..., None], 3, -1)) for x in blocks]),
        "waveform": np.concatenate([stages.vocode(vocoder, x, sampler.mel, "hifigan") for x in blocks]),
        "subject": np.array([pair[0] for pair in pairs]),
        "sound": np.array([pair[1] for pair in pairs]),
    }


if __name__ == "__main__":
    cli.start(main)
