"""Trains the UNet and the text encoder of 'image' or 'audio' together, on latents of the trained VAE."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.storage.files import read_json
from its_jax.tiny.data import items, pictures, sounds
from its_jax.tiny.recipe import latent
from its_jax.tiny.training import vae
from its_jax.tiny.training.loop import Result, fit, load_result
from its_jax.tiny.training.schedule import STAGES

TRAIN_ITEMS, HELD_OUT_ITEMS = 3000, 120
CAPTION_DROPOUT = 0.12
# Most steps take half a canvas, at half the cost. The last ones of a cycle take whole canvases, as sampling does.
CROP, CROP_SHARE = 32, 0.85
MIN_SNR_GAMMA = 5.0  # arXiv 2303.09556
NOISE_LEVELS = 100, 300, 500  # timesteps of the held-out error

Latents = Mapping[str, Any]  # latents "z" `[b, h, w, 4]`, and "tokens" of their captions


def train(kind: str, workdir: Path) -> Result:
    """Trains `text_encoder` and `unet` of 'image' or 'audio'. The VAE must be trained already."""
    stage = STAGES[kind]
    z = {
        split: _latents(workdir, kind, split, n) for split, n in (("train", TRAIN_ITEMS), ("held_out", HELD_OUT_ITEMS))
    }
    whole = z["train"].shape[2]
    draw_batch = _batch_function(kind)

    def batches(step):
        crop = stage.progress(step) < CROP_SHARE
        size, width = (stage.batch, CROP) if crop else (stage.batch // 2, whole)
        return draw_batch(items.generator(kind, "train", step), z["train"], size, width, CAPTION_DROPOUT)

    graph, params = nnx.split(latent.random_text_and_unet(kind))

    def batch_loss(params, batch, key):
        return loss(nnx.merge(graph, params), batch, key)

    params, seconds = fit(batch_loss, params, batches, stage, workdir / kind)

    def draw_held_out(i):
        return draw_batch(items.generator(kind, "held_out", i), z["held_out"], 12, whole, 0.0)

    return Result(params, seconds, _held_out(nnx.merge(graph, params), draw_held_out))


def _batch_function(kind: str) -> Callable[..., Latents]:
    """Returns a function that draws a batch of cropped latents and captions."""
    source = pictures if kind == "image" else sounds
    classes = items.SUBJECTS if kind == "image" else items.SOUNDS
    tokenize = latent.tokenizer(kind)

    def draw(rng, z, size, width, dropout):
        chosen, start = rng.integers(len(z), size=size), rng.integers(z.shape[2] - width + 1, size=size)
        captions = ["" if rng.random() < dropout else source.caption(classes[i % len(classes)], rng) for i in chosen]
        crops = np.stack([z[i, :, s : s + width] for i, s in zip(chosen, start, strict=True)])
        return dict(z=crops, tokens=tokenize(captions))

    return draw


def loss(models: Any, batch: Latents, key: Array) -> Array:
    """Computes the weighted `noise_error` at random timesteps."""
    for_t, for_noise = jax.random.split(key)
    alphas_cumprod = _alphas_cumprod()
    t = jax.random.randint(for_t, (len(batch["z"]),), 0, len(alphas_cumprod))
    snr = alphas_cumprod[t] / (1 - alphas_cumprod[t])
    return jnp.mean(jnp.minimum(1.0, MIN_SNR_GAMMA / snr) * noise_error(models, batch, t, for_noise))


def noise_error(models: Any, batch: Latents, t: Array, key: Array) -> Array:
    """Computes the mean squared error `[b]` of the predicted noise at timesteps `t` `[b]`."""
    signal = _alphas_cumprod()[t][:, None, None, None]
    eps = jax.random.normal(key, batch["z"].shape)
    x = jnp.sqrt(signal) * batch["z"] + jnp.sqrt(1 - signal) * eps
    predicted = models.unet(x, t, models.text_encoder(batch["tokens"]))
    return jnp.mean((predicted - eps) ** 2, axis=(1, 2, 3))


def _alphas_cumprod() -> Array:
    """Returns the share of the signal at each timestep, float32 `[1000]`."""
    return jnp.asarray(NoiseSchedule.from_dict(latent.SCHEDULER).alphas_cumprod(), jnp.float32)


def _held_out(models: Any, draw_batch: Callable[[int], Latents]) -> dict[str, float]:
    """Returns the error of the noise for whole held-out canvases."""
    error = jax.jit(noise_error)
    figures = {}
    for t in NOISE_LEVELS:
        errors = [error(models, draw_batch(i), jnp.full(12, t), jax.random.key(i)) for i in range(10)]
        figures[f"noise_mse_t{t}"] = round(float(np.mean(errors)), 4)
    return figures


def _latents(workdir: Path, kind: str, split: str, count: int) -> np.ndarray:
    """Returns the scaled latents `[count, 16, 64, 4]` of the data, computed once for a VAE."""
    path, trained = workdir / f"latents_{kind}_{split}.npy", workdir / "vae.json"
    if not path.exists() or path.stat().st_mtime < trained.stat().st_mtime:
        make = items.make_pictures if kind == "image" else items.make_spectrograms
        z = vae.encode(load_result(latent.random_vae(), workdir / "vae"), make(split, count))
        with open(path.with_suffix(".tmp"), "wb") as file:
            np.save(file, z / read_json(trained)["latent_std"])
        path.with_suffix(".tmp").rename(path)
    return np.load(path)
