"""How good the embedded models are: `python -m its_jax.tiny.evaluate --config=configs/default.py --workdir=FOLDER`.

Samples every subject with every sound at the config's settings, and each model alone, through the functions that
`its_jax.sample` runs. Judges (`its_jax.tiny.judges`) say what the picture shows and what the sound, analysed again from
the vocoder's waveform, is. Since judges accept plain blends too, the error with which each model denoises the finished
sample is given beside: it tells how likely the sample is under the model. Writes evaluation.json; resumable.
"""

import itertools
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from its_jax import cli, stages
from its_jax.jobs import TERMS, expand
from its_jax.media import contact_sheet, write_json, write_png
from its_jax.sampler import Sampler
from its_jax.tiny import data, judges, pictures, sounds
from its_jax.tiny.export import machine

_CONFIG = config_flags.DEFINE_config_file("config", None, "The settings to evaluate, say configs/default.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where samples and evaluation.json go.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 4, "Fused samples of each pair.")
_SINGLES = flags.DEFINE_integer("singles", 12, "Samples of each subject and of each sound alone.")
_BATCH = flags.DEFINE_integer("batch", 12, "Samples at once.")

NOISE_LEVELS = (100, 300, 500)  # training timesteps of the denoising error
_SUBJECTS, _SOUNDS = data.SUBJECTS, data.SOUNDS


def main():
    logging.getLogger().setLevel(logging.INFO)
    run(_CONFIG.value, Path(_WORKDIR.value), seeds=_SEEDS.value, singles=_SINGLES.value, batch=_BATCH.value)


def run(config, workdir, *, seeds, singles, batch):
    """Writes WORKDIR/evaluation.json and WORKDIR/fused.png."""
    workdir.mkdir(parents=True, exist_ok=True)
    settings = config.to_dict()
    sampler = Sampler(expand(settings, 1)[0], pending=batch, batch_size=batch)
    pairs = list(itertools.product(range(len(_SUBJECTS)), range(len(_SOUNDS)), range(seeds)))
    classes = range(len(_SUBJECTS))
    fused = _samples(sampler, settings, [(*pair, "fused") for pair in pairs], workdir / "fused.npz")
    alone = {
        kind: _samples(
            sampler,
            settings,
            [(i, i, s, kind) for i in classes for s in range(singles)],
            workdir / f"{kind}.npz",
        )
        for kind in TERMS
    }
    judge = {kind: judges.load(kind) for kind in ("picture", "sound")}
    results = {kind: _judged(sampler, judge, alone[kind]) for kind in TERMS}
    results["fused"] = _judged(sampler, judge, fused)
    for name, blend in (("pixel_average", lambda a, b: (a + b) / 2), ("pixel_maximum", np.maximum)):
        results[name] = _judged(sampler, judge, _blended(sampler, alone, pairs, singles, blend))
    report = {name: _figures(result) for name, result in results.items()}
    report["machine"] = machine()
    report["settings"] = {
        key: value for key, value in settings.items() if key not in ("seed", "num_samples", "batch_size", "video")
    }
    report["counts"] = {"seeds": seeds, "singles": singles}
    write_json(workdir / "evaluation.json", report)
    best = fused["spectrogram"][::seeds][:: len(_SOUNDS) + 1]
    titles = [f"{_SUBJECTS[i]}\n{_SOUNDS[i]}" for i in classes]
    write_png(workdir / "fused.png", contact_sheet(list(best.astype(np.float32) / 255), titles, 2), {})
    for name in results:
        figures = {key: value for key, value in report[name].items() if not isinstance(value, dict)}
        logging.info("%-14s %s", name, figures)


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


def _samples(sampler, settings, wanted, path):
    """Arrays of all wanted (subject, sound, seed, kind); from the file if it is there."""
    if path.exists():
        return dict(np.load(path))
    rows = []
    for start in range(0, len(wanted), sampler.batch_size):
        jobs = [_job(settings, *what) for what in wanted[start : start + sampler.batch_size]]
        rows += [(s.spectrogram, s.latents, s.waveform) for s in sampler(jobs)]
        logging.info("%s: %d of %d samples", path.stem, len(rows), len(wanted))
    arrays = {
        "spectrogram": np.stack([data.to_bytes(row[0]) for row in rows]),
        "latents": np.stack([row[1] for row in rows]),
        "waveform": np.stack([row[2] for row in rows]),
        "subject": np.array([what[0] for what in wanted]),
        "sound": np.array([what[1] for what in wanted]),
    }
    with open(path.with_suffix(".tmp"), "wb") as file:
        np.savez(file, **arrays)
    path.with_suffix(".tmp").rename(path)
    return arrays


def _blended(sampler, alone, pairs, singles, blend):
    """What a plain blend of the two single-model samples gives, for the same pairs."""
    a = np.array([subject * singles + seed % singles for subject, _, seed in pairs])
    b = np.array([sound * singles + seed % singles for _, sound, seed in pairs])
    spectrogram = blend(
        alone["image"]["spectrogram"][a] / np.float32(255), alone["audio"]["spectrogram"][b] / np.float32(255)
    )
    vae, vocoder = sampler.image.vae, sampler.audio.vocoder
    blocks = np.split(spectrogram, len(spectrogram) // 12)
    return {
        "spectrogram": data.to_bytes(spectrogram),
        "latents": np.concatenate([stages.encode_picture(vae, np.repeat(x[..., None], 3, -1)) for x in blocks]),
        "waveform": np.concatenate([stages.vocode(vocoder, x, sampler.mel, "hifigan") for x in blocks]),
        "subject": np.array([pair[0] for pair in pairs]),
        "sound": np.array([pair[1] for pair in pairs]),
    }


def _judged(sampler, judge, samples):
    """Per sample: whether picture and sound are right, how each model denoises it, how well the sound is vocoded."""
    spectrogram = samples["spectrogram"] / np.float32(255)
    rows = range(0, len(spectrogram), 12)
    griffin_lim = np.concatenate(
        [stages.vocode(sampler.audio.vocoder, spectrogram[i : i + 12], sampler.mel, "griffin_lim") for i in rows]
    )
    heard, heard_gl = (
        np.concatenate([data.to_spectrogram(w[i : i + 12]) for i in rows]) for w in (samples["waveform"], griffin_lim)
    )
    return {
        "subject": samples["subject"],
        "sound": samples["sound"],
        "picture_right": judges.classify(judge["picture"], spectrogram) == samples["subject"],
        "sound_right": judges.classify(judge["sound"], heard) == samples["sound"],
        "sound_right_griffin_lim": judges.classify(judge["sound"], heard_gl) == samples["sound"],
        "error_picture_model": _denoising_error(sampler.image, samples, "image"),
        "error_sound_model": _denoising_error(sampler.audio, samples, "audio"),
        "vocoder_error": np.abs(heard - spectrogram).mean(axis=(1, 2)),
        "griffin_lim_error": np.abs(heard_gl - spectrogram).mean(axis=(1, 2)),
    }


def _denoising_error(model, samples, kind):
    """Mean squared error of the predicted noise `[n]` at `NOISE_LEVELS`, with the same noise for all samples."""
    source, names, labels = (
        (pictures.SUBJECTS, _SUBJECTS, samples["subject"])
        if kind == "image"
        else (sounds.SOUNDS, _SOUNDS, samples["sound"])
    )
    template = "a painting of {}, grayscale" if kind == "image" else "{}"
    ids = stages.tokenize(model.tokenizer, [template.format(source[name][0]) for name in names])
    texts = stages.encode_texts(model.text_encoder, ids[:, None])[:, 0]
    signal = model.schedule.alphas_cumprod()
    eps = jax.random.normal(jax.random.key(0), samples["latents"].shape[1:])

    @jax.jit
    def error(unet, z, text, t, alpha, sigma):
        predicted = unet(alpha * z + sigma * eps, jnp.full(len(z), t), text)
        return jnp.mean((predicted - eps) ** 2, axis=(1, 2, 3))

    errors = []
    for i in range(0, len(labels), 12):
        z, text = samples["latents"][i : i + 12], texts[labels[i : i + 12]]
        errors.append(
            np.mean(
                [error(model.unet, z, text, t, signal[t] ** 0.5, (1 - signal[t]) ** 0.5) for t in NOISE_LEVELS],
                axis=0,
            )
        )
    return np.concatenate(errors)


def _figures(result):
    """Means over all samples; the accuracies also by subject and by sound."""
    both = result["picture_right"] & result["sound_right"]
    accuracies = {"picture": result["picture_right"], "sound": result["sound_right"], "both": both}
    figures = {name: round(float(np.mean(values)), 4) for name, values in accuracies.items()}
    figures["sound_griffin_lim"] = round(float(np.mean(result["sound_right_griffin_lim"])), 4)
    for name in ("error_picture_model", "error_sound_model", "vocoder_error", "griffin_lim_error"):
        figures[name] = round(float(np.mean(result[name])), 4)
    figures["error_mean"] = round((figures["error_picture_model"] + figures["error_sound_model"]) / 2, 4)
    for axis, names in (("subject", _SUBJECTS), ("sound", _SOUNDS)):
        figures[f"by_{axis}"] = {
            name: {key: round(float(np.mean(values[result[axis] == i])), 3) for key, values in accuracies.items()}
            for i, name in enumerate(names)
        }
    return figures


if __name__ == "__main__":
    cli.start(main)
