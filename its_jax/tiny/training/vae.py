"""Trains the VAE that both models share, on crops of images, of spectrograms, and of mixtures like fused samples."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from its_jax.models.vae import AutoencoderKL
from its_jax.tiny.data import items
from its_jax.tiny.recipe import latent
from its_jax.tiny.training import crops
from its_jax.tiny.training.loop import Result, fit
from its_jax.tiny.training.schedule import STAGES

TRAIN_ITEMS, HELD_OUT_ITEMS = 3000, 120
CROP = 64  # pixels
# Spectrograms are finer than images. From this share of the steps on, most crops are spectrograms.
LATE, LATE_SHARES = 0.6, (0.15, 0.55, 0.2, 0.1)
_BATCH = 12  # canvases that are encoded or decoded at once


def train(workdir: Path) -> Result:
    """Trains the VAE."""
    stage, canvases = STAGES["vae"], crops.make_canvases("train", TRAIN_ITEMS)

    def batches(step):
        rng = items.generator("vae", "train", step)
        shares = LATE_SHARES if stage.progress(step) >= LATE else crops.SHARES
        return np.stack([crops.random_crop(rng, *canvases, CROP, shares) for _ in range(stage.batch)])

    graph, params = nnx.split(latent.random_vae())

    def batch_loss(params, batch, key):
        return loss(nnx.merge(graph, params), items.to_rgb(batch), key)

    params, seconds = fit(batch_loss, params, batches, stage, workdir / "vae")
    return Result(params, seconds, _held_out(nnx.merge(graph, params)))


def loss(vae: AutoencoderKL, x: Array, key: Array) -> Array:
    """Computes the error of reconstructed images `[b, h, w, 3]` in [-1, 1], and the divergence of the posterior."""
    posterior = vae.encode(x)
    error = vae.decode(posterior.sample(key)) - x
    mean, log_variance = posterior.mean, posterior.log_variance
    divergence = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1 - log_variance)
    return jnp.mean(jnp.abs(error)) + 5 * jnp.mean(error**2) + 1e-4 * divergence


def encode(vae: AutoencoderKL, canvases: np.ndarray) -> np.ndarray:
    """Returns the means of the posterior, unscaled.

    Args:
      canvases: uint8 `[n, h, w]`, n a multiple of 12.

    Returns:
      latents `[n, h/8, w/8, 4]`.
    """
    means = jax.jit(lambda vae, x: vae.encode(items.to_rgb(x)).mean)
    return np.concatenate([means(vae, block) for block in np.split(canvases, len(canvases) // _BATCH)])


def _held_out(vae: AutoencoderKL) -> dict[str, float]:
    """Returns the PSNR of whole held-out canvases, and the standard deviation of the latents.

    The scaling factor is the inverse of that deviation.
    """
    decode = jax.jit(lambda vae, z: jnp.clip(vae.decode(z).mean(-1) / 2 + 0.5, 0, 1))
    figures, latents = {}, []
    held_out = crops.make_canvases("held_out", HELD_OUT_ITEMS)
    for name, canvases in zip(("pictures", "spectrograms"), held_out, strict=True):
        z = encode(vae, canvases)
        decoded = np.concatenate([decode(vae, block) for block in np.split(z, len(z) // _BATCH)])
        figures[f"psnr_{name}_db"] = round(items.psnr(decoded, canvases / 255), 2)
        latents.append(z)
    return figures | {"latent_std": float(np.std(np.concatenate(latents)))}
