"""Trains the embedded models from nothing: `python -m its_jax.tiny.train --workdir=FOLDER`.

Stages: the VAE, the two UNets with their text encoders, the vocoder; then the export in diffusers' layout. About
4 hours on 2 CPU cores, minutes on a GPU. Each stage saves its state every two minutes and goes on from there; stages
that do not need each other may run side by side (`--stage=image` and `--stage=audio` in two processes).
"""

import json
import logging
import os
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from its_jax.media import write_json
from its_jax.models.text import CLIPTextConfig, CLIPTextModel
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from its_jax.models.vae import AutoencoderKL, VAEConfig
from its_jax.models.vocoder import Generator, VocoderConfig
from its_jax.tiny import data, recipe
from its_jax.tiny.fit import fit

_WORKDIR = flags.DEFINE_string("workdir", None, "where checkpoints, figures and the exported models go", required=True)
_STAGE = flags.DEFINE_enum(
    "stage", "all", ["all", "vae", "image", "audio", "vocoder", "export"], "what to train; all is resumable too"
)

TRAIN_ITEMS, HELD_OUT_ITEMS = 3000, 120
CROP = 64  # pixels: width of the VAE's training crops


def train_vae(workdir):
    """The shared VAE, on crops of pictures, of spectrograms, and of mixtures of both, which fused latents resemble."""
    pictures = data.make_pictures("train", TRAIN_ITEMS)
    spectrograms = data.make_spectrograms("train", TRAIN_ITEMS)
    stage = recipe.STAGES["vae"]

    def batches(step):
        rng = data.generator("vae", "train", step)
        return np.stack([_mixture(rng, pictures, spectrograms) for _ in range(stage.batch)])

    config = VAEConfig.from_dict(recipe.VAE)
    graph, params = nnx.split(AutoencoderKL(config, rngs=nnx.Rngs(0)))

    def loss(params, crops, key):
        vae, x = nnx.merge(graph, params), data.to_rgb(crops)
        posterior = vae.encode(x)
        error = vae.decode(posterior.sample(key)) - x
        mean, log_variance = posterior.mean, posterior.log_variance
        divergence = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1 - log_variance)
        return jnp.mean(jnp.abs(error)) + 5 * jnp.mean(error**2) + 1e-4 * divergence

    params, seconds = fit(loss, params, batches, stage, workdir / "vae")
    figures = _vae_figures(nnx.merge(graph, params)) | {"seconds": round(seconds)}
    logging.info("vae: %s", figures)
    _finish(workdir, "vae", params, figures)


def _mixture(rng, pictures, spectrograms):
    """A random crop `[128, CROP]` of a picture, of a spectrogram, or of their maximum or mean."""

    def crop(items):
        start = rng.integers(items.shape[2] - CROP + 1)
        return items[rng.integers(len(items)), :, start : start + CROP]

    kind = rng.choice(4, p=(0.35, 0.35, 0.2, 0.1))
    if kind == 0:
        return crop(pictures)
    if kind == 1:
        return crop(spectrograms)
    a, b = crop(pictures), crop(spectrograms)
    return np.maximum(a, b) if kind == 2 else (a // 2 + b // 2)


def _vae_figures(vae):
    """PSNR on whole held-out canvases, and the deviation of the latents (whose inverse is the scaling factor)."""
    encode = jax.jit(lambda vae, x: vae.encode(data.to_rgb(x)).mean)
    decode = jax.jit(lambda vae, z: jnp.clip(vae.decode(z).mean(-1) / 2 + 0.5, 0, 1))
    figures, latents = {}, []
    for name, items in (
        ("pictures", data.make_pictures("held_out", HELD_OUT_ITEMS)),
        ("spectrograms", data.make_spectrograms("held_out", HELD_OUT_ITEMS)),
    ):
        z = [encode(vae, block) for block in np.split(items, len(items) // 12)]
        decoded = np.concatenate([decode(vae, block) for block in z])
        figures[f"psnr_{name}_db"] = round(data.psnr(decoded, items / 255), 2)
        latents.append(np.concatenate(z))
    figures["latent_std"] = float(np.std(np.concatenate(latents)))
    return figures


def _finish(workdir, name, params, figures):
    """A stage's result as numpy, and its figures."""
    write_json(workdir / f"{name}.json", figures)


def main(argv):
    del argv
    logging.getLogger().setLevel(logging.INFO)
    workdir = Path(_WORKDIR.value).absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    {"vae": train_vae}[_STAGE.value](workdir)


if __name__ == "__main__":
    app.run(main)
