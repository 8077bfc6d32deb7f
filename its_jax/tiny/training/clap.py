"""Trains the embedded CLAP on captions and on sounds, both synthesized and vocoded from disturbed spectrograms."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from its_jax.models.clap import ClapModel
from its_jax.models.hifigan import Generator
from its_jax.pipeline.decoding import vocode
from its_jax.pipeline.prompts import tokenize
from its_jax.tiny.data import items, sounds
from its_jax.tiny.recipe import canvas, dual_encoder, latent
from its_jax.tiny.training import augment, contrastive
from its_jax.tiny.training.loop import Params, Result, fit, load_result
from its_jax.tiny.training.schedule import STAGES

TRAIN_ITEMS, HELD_OUT_ITEMS = 960, 240
# The versions of each sound: as synthesized (""), and vocoded from its spectrogram, disturbed differently each time.
VERSIONS = ("", "hifigan", "hifigan", "hifigan")


def train(workdir: Path) -> Result:
    """Trains CLAP. The vocoder must be trained already."""
    stage, tokenizer = STAGES["clap"], dual_encoder.tokenizer("clap")
    vocoder = load_result(latent.random_vocoder(), workdir / "vocoder")
    log_mels = _cached(workdir / "heard.npy", lambda: make_log_mels("contrast_train", TRAIN_ITEMS, VERSIONS, vocoder))
    log_mels = log_mels.reshape(-1, *log_mels.shape[2:])

    def batches(step):
        rng = items.generator("clap", "contrast_train", step)
        chosen = contrastive.rounds(rng, len(log_mels), stage.batch)
        captions = [sounds.caption(items.SOUNDS[i % items.CLASSES], rng) for i in chosen]
        return {"x": log_mels[chosen], "tokens": tokenize(tokenizer, captions)}

    graph, params = nnx.split(_initial_model(log_mels))

    def batch_loss(params, batch, key):
        return loss(nnx.merge(graph, params), batch)

    params, seconds = fit(batch_loss, params, batches, stage, workdir / "clap", rates=learning_rate_factors(params))
    return Result(params, seconds, _held_out(nnx.merge(graph, params), vocoder))


def _initial_model(log_mels: np.ndarray) -> ClapModel:
    """Returns a random model whose statistics are those of the data, `[n, frames, bands]`."""
    model = dual_encoder.random_clap()
    norm = model.audio_model.audio_encoder.batch_norm
    norm.running_mean[...] = jnp.asarray(log_mels.mean(axis=(0, 1)))
    norm.running_var[...] = jnp.asarray(log_mels.var(axis=(0, 1)))
    return model


def loss(model: ClapModel, batch: Mapping[str, Any]) -> Array:
    """Computes the contrastive loss of a batch, in rounds, of log-mels "x" and the "tokens" of their captions."""
    embeddings, texts = model.embed_audio(batch["x"]), model.embed_text(batch["tokens"])
    return contrastive.info_nce(embeddings, texts, model.logit_scale_a[...], model.logit_scale_t[...])


def learning_rate_factors(params: Params) -> Params:
    """Returns 0 for the statistics of the data, which are not trained, and 1 for all other parameters."""

    def factor(path, _):
        return 0.0 if "running" in jax.tree_util.keystr(path) else 1.0

    return jax.tree_util.tree_map_with_path(factor, params)


def _cached(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns an array that is computed once and kept in a file."""
    if not path.exists():
        with open(path.with_suffix(".tmp"), "wb") as file:
            np.save(file, make())
        path.with_suffix(".tmp").rename(path)
    return np.load(path)


def make_log_mels(split: str, count: int, versions: Sequence[str], vocoder: Generator) -> np.ndarray:
    """Makes the first sounds of a split in several versions, as CLAP's input `[versions, count, frames, bands]`."""
    images, spectrograms = items.make_pictures(split, count), items.make_spectrograms(split, count)
    rng = items.generator("clap disturbed", split, 0)
    log_mels = []
    for method in versions:
        if method:
            disturbed = np.stack([augment.disturb(rng, x, rng.choice(images)) for x in spectrograms])
            log_mels.append(preprocess(_vocode(vocoder, disturbed.astype(np.float32), method)))
        else:
            log_mels.append(preprocess(items.make_waveforms(split, range(count))))
    return np.stack(log_mels)


@functools.partial(jax.jit, static_argnames="method")
def _vocode(vocoder: Generator, spectrograms: Array, method: str) -> Array:
    """Returns the waveforms `[n, samples]` of spectrograms `[n, 128, w]` in [0, 1]."""
    return vocode(vocoder, spectrograms, canvas.MEL, method)


def preprocess(waveforms: np.ndarray | Array) -> np.ndarray:
    """Normalizes waveforms `[n, samples]` to a peak of 1, and returns them as CLAP's input `[n, frames, bands]`."""
    extractor = dual_encoder.feature_extractor()
    return np.stack([extractor(waveform / np.abs(waveform).max()) for waveform in np.asarray(waveforms)])


def embed_log_mels(model: ClapModel, log_mels: np.ndarray) -> np.ndarray:
    """Returns the embeddings `[n, d]` of log-mels `[n, frames, bands]`, n a multiple of 12."""
    return contrastive.embed(lambda model, x: model.embed_audio(x), model, log_mels)


def _held_out(model: ClapModel, vocoder: Generator) -> dict[str, float]:
    """Returns the retrieval of synthesized sounds and of sounds vocoded from disturbed spectrograms."""
    texts = contrastive.embed_captions(
        model, dual_encoder.tokenizer("clap"), sounds.caption, items.SOUNDS, HELD_OUT_ITEMS
    )
    clean, disturbed = make_log_mels("contrast_held_out", HELD_OUT_ITEMS, ("", "hifigan"), vocoder)
    return {
        "held_out": contrastive.retrieval(embed_log_mels(model, clean), texts),
        "held_out_disturbed": contrastive.retrieval(embed_log_mels(model, disturbed), texts),
    }
