"""The embedded CLAP's training: sounds as they are made, sounds as a vocoder leaves fused samples, and captions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from its_jax.pipeline.decoding import vocode
from its_jax.pipeline.prompts import tokenize
from its_jax.tiny import judges, modules, recipe
from its_jax.tiny.data import items as data_items
from its_jax.tiny.data import sounds
from its_jax.tiny.training import contrastive, dual_encoder_folder
from its_jax.tiny.training.loop import fit

TRAIN_ITEMS, HELD_OUT_ITEMS = 960, 240
# Each recording is heard as it is made (""), and played by a vocoder from its spectrogram, disturbed anew each time.
PLAYED = ("", "hifigan", "hifigan", "hifigan")


def train(workdir):
    """Returns the averaged parameters, the held-out figures and the seconds it took; the vocoder is trained before."""
    stage, tokenizer = recipe.STAGES["clap"], dual_encoder_folder.tokenizer("clap")
    vocoder = modules.trained(modules.vocoder(), workdir / "vocoder")
    log_mels = _kept(workdir / "heard.npy", lambda: heard("contrast_train", TRAIN_ITEMS, PLAYED, vocoder))
    log_mels = log_mels.reshape(-1, *log_mels.shape[2:])

    def batches(step):
        rng = data_items.generator("clap", "contrast_train", step)
        chosen = contrastive.rounds(rng, len(log_mels), stage.batch)
        captions = [sounds.caption(data_items.SOUNDS[i % len(data_items.SOUNDS)], rng) for i in chosen]
        return {"x": log_mels[chosen], "tokens": tokenize(tokenizer, captions)}

    model = modules.embedder("clap")
    norm = model.audio_model.audio_encoder.batch_norm
    norm.running_mean[...] = jnp.asarray(log_mels.mean(axis=(0, 1)))
    norm.running_var[...] = jnp.asarray(log_mels.var(axis=(0, 1)))
    graph, params = nnx.split(model)

    params, seconds = fit(
        lambda params, batch, key: loss(nnx.merge(graph, params), batch),
        params,
        batches,
        stage,
        workdir / "clap",
        rates(params),
    )
    return params, _held_out(nnx.merge(graph, params), vocoder), seconds


def loss(model, batch):
    """Of a batch of log-mels "x" and tokens of their captions, in rounds."""
    items, texts = model.embed_sound(batch["x"]), model.embed_text(batch["tokens"])
    return contrastive.info_nce(items, texts, model.logit_scale_a[...], model.logit_scale_t[...])


def rates(params):
    """Factors on the learning rate: the statistics stay those of the data."""

    def rate(path, _):
        return 0.0 if "running" in jax.tree_util.keystr(path) else 1.0

    return jax.tree_util.tree_map_with_path(rate, params)


def _kept(path, make):
    """An array that is computed once."""
    if not path.exists():
        with open(path.with_suffix(".tmp"), "wb") as file:
            np.save(file, make())
        path.with_suffix(".tmp").rename(path)
    return np.load(path)


def heard(split, count, played, vocoder):
    """What CLAP takes of a split's first recordings, in each of these ways: `[ways, count, frames, bands]`."""
    pictures, spectrograms = data_items.make_pictures(split, count), data_items.make_spectrograms(split, count)
    rng = data_items.generator("clap disturbed", split, 0)
    ways = []
    for method in played:
        if method:
            disturbed = np.stack([judges.disturbed(rng, sound, rng.choice(pictures)) for sound in spectrograms])
            ways.append(prepared(_vocode(vocoder, disturbed.astype(np.float32), method)))
        else:
            ways.append(prepared(data_items.make_waveforms(split, range(count))))
    return np.stack(ways)


@functools.partial(jax.jit, static_argnames="method")
def _vocode(vocoder, canvases, method):
    return vocode(vocoder, canvases, recipe.MEL, method)


def prepared(waveforms):
    """Waveforms `[n, samples]`, each with its peak at 1 from here on -> what CLAP takes, `[n, frames, bands]`."""
    features = dual_encoder_folder.features("clap")
    waveforms = np.asarray(waveforms)
    return np.stack([features(waveform / np.abs(waveform).max()) for waveform in waveforms])


def embed_sounds(model, log_mels):
    """`[n, frames, bands]`, n a multiple of 12 -> `[n, d]`."""
    return contrastive.embedded(lambda model, x: model.embed_sound(x), model, log_mels)


def _held_out(model, vocoder):
    """Retrieval among recordings as they are, and among those that a vocoder plays from disturbed spectrograms."""
    texts = contrastive.texts_of_all(
        model, dual_encoder_folder.tokenizer("clap"), sounds, data_items.SOUNDS, HELD_OUT_ITEMS
    )
    clean, hard = heard("contrast_held_out", HELD_OUT_ITEMS, ("", "hifigan"), vocoder)
    return {
        "held_out": contrastive.retrieval(embed_sounds(model, clean), texts),
        "held_out_disturbed": contrastive.retrieval(embed_sounds(model, hard), texts),
    }
