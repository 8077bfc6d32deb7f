"""Trains the embedded pixel model on colored images, disturbed so that they resemble fused samples, and captions.

The loss has two parts: the error of the noise, and the bound on the likelihood, which trains the variance of the steps
while the noise is held constant (Nichol and Dhariwal 2021, arXiv 2102.09672, section 3.1).
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from its_jax.colorize import factorized
from its_jax.diffusion import ddpm
from its_jax.pipeline import prompts
from its_jax.tiny.data import colors, items
from its_jax.tiny.recipe import pixel
from its_jax.tiny.training import augment
from its_jax.tiny.training.loop import Result, fit
from its_jax.tiny.training.schedule import STAGES

TRAIN_ITEMS, HELD_OUT_ITEMS = 1800, 120
CAPTION_DROPOUT = 0.12
DISTURBED = 0.7  # share of disturbed images
# Most steps take a quarter of a canvas. The last ones of a cycle take whole canvases, as sampling does.
CROP, CROP_SHARE = 32, 0.85
VARIANCE_WEIGHT = 1e-3
MIN_SNR_GAMMA = 5.0  # arXiv 2303.09556
NOISE_LEVELS = 100, 300, 500  # timesteps of the held-out figures


def train(workdir: Path) -> Result:
    """Trains `text_encoder` and `unet` of the pixel model."""
    stage, tokenizer, images = STAGES["color"], pixel.tokenizer(), make_images("train", TRAIN_ITEMS)
    others = items.make_spectrograms("train", TRAIN_ITEMS // 2)

    def batches(step):
        crop = stage.progress(step) < CROP_SHARE
        size, width = (stage.batch, CROP) if crop else (stage.batch // 4, pixel.WIDTH)
        rng = items.generator("color", "train", step)
        return draw_batch(rng, images, others, tokenizer, size, width)

    graph, params = nnx.split(pixel.random_text_and_unet())
    table = ddpm_table()

    def batch_loss(params, batch, key):
        return loss(nnx.merge(graph, params), table, batch, key)

    params, seconds = fit(batch_loss, params, batches, stage, workdir / "color")
    return Result(params, seconds, _held_out(nnx.merge(graph, params), table, tokenizer))


def ddpm_table() -> ddpm.DDPMTable:
    """Returns the table of all training timesteps."""
    schedule = ddpm.DDPMSchedule.from_dict(pixel.SCHEDULER)
    return ddpm.ddpm_table(schedule, schedule.num_train_timesteps)


def make_images(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws the first images of a split.

    Returns:
      grays, uint8 `[count, 128, 512]`, and tints at the size of the model's images, uint8 `[count, 32, 128, 3]`.
    """
    grays, tints = [], []
    for i in range(count):
        gray, tint = colors.draw(items.SUBJECTS[i % items.CLASSES], items.generator("picture", split, i))
        grays.append(items.to_bytes(gray))
        tints.append(items.to_bytes(_downsample(tint)))
    return np.stack(grays), np.stack(tints)


def draw_batch(
    rng: np.random.Generator,
    images: tuple[np.ndarray, np.ndarray],
    others: np.ndarray,
    tokenizer: Any,
    size: int,
    width: int,
    *,
    disturbed: float = DISTURBED,
    dropout: float = CAPTION_DROPOUT,
) -> dict[str, np.ndarray]:
    """Draws a batch of crops and captions.

    Args:
      images: grays and tints, from `make_images`.
      others: spectrograms that disturb the images.
      width: columns of a crop at the size of the model's images.
      disturbed, dropout: probabilities of a disturbance and of an empty caption.

    Returns:
      crops "x0", float32 `[size, 32, width, 3]` in [-1, 1], and the "tokens" of their captions.
    """
    grays, tints = images
    chosen, starts = rng.integers(len(grays), size=size), rng.integers(pixel.WIDTH - width + 1, size=size)
    x0, captions = [], []
    for i, start in zip(chosen, starts, strict=True):
        columns = slice(pixel.REDUCTION * start, pixel.REDUCTION * (start + width))
        gray = grays[i][:, columns]
        if rng.random() < disturbed:
            gray = augment.disturb(rng, gray, others[rng.integers(len(others))][:, columns])
        else:
            gray = gray / np.float32(255)
        tint = tints[i][:, start : start + width] / np.float32(255)
        x0.append(colors.apply_tints(_downsample(gray[..., None])[..., 0], tint) * 2 - 1)
        subject = items.SUBJECTS[i % items.CLASSES]
        captions.append("" if rng.random() < dropout else colors.caption(subject, rng))
    return {"x0": np.stack(x0), "tokens": prompts.tokenize_for_pixels(tokenizer, captions)}


def _downsample(image: Any) -> np.ndarray:
    """Reduces an image `[h, w, c]` to the size of the model's images."""
    return np.asarray(factorized.downsample(image[None], pixel.REDUCTION)[0])


def loss(models: Any, table: ddpm.DDPMTable, batch: dict[str, Any], key: Array) -> Array:
    """Computes the weighted error of the noise and the bound of the variance at random timesteps."""
    for_k, for_noise = jax.random.split(key)
    k = jax.random.randint(for_k, (len(batch["x0"]),), 0, len(table.t))
    text = prompts.encode_tokens_for_pixels(models.text_encoder, batch["tokens"])
    error, bound, row = noise_error_and_bound(models.unet, table, k, batch["x0"], text, for_noise)
    weight = jnp.minimum(1.0, MIN_SNR_GAMMA * row.sigma**2 / row.alpha**2)
    return jnp.mean(weight * error + VARIANCE_WEIGHT * bound)


def noise_error_and_bound(
    unet: Any, table: ddpm.DDPMTable, k: Array, x0: Array, text: Array, key: Array
) -> tuple[Array, Array, ddpm.DDPMTable]:
    """Computes the mean squared error of the noise, and the bound of the variance in bits.

    Args:
      k: indices of rows of the table, `[b]`.
      x0: clean images `[b, h, w, 3]` in [-1, 1].
      text: text features `[b, n, d]`.

    Returns:
      the error `[b]`, the bound `[b]`, and the rows of the table, `[b]` each.
    """
    row = jax.tree.map(lambda column: jnp.asarray(column)[k], table)
    at = jax.tree.map(lambda column: column[:, None, None, None], row)
    eps = jax.random.normal(key, x0.shape)
    x = at.alpha * x0 + at.sigma * eps
    predicted, v = jnp.split(unet(x, row.t, text).astype(jnp.float32), 2, axis=-1)
    # The distance between the predicted mean of a step and that of the true posterior.
    distance = at.c0 * at.sigma / at.alpha * lax.stop_gradient(predicted - eps)
    # At timestep 0 nothing is drawn, and `low` is not finite.
    low = jnp.where(jnp.isfinite(at.low), at.low, 0)
    log_variance = low + (v + 1) / 2 * at.span
    bound = 0.5 * (log_variance - low + jnp.exp(low - log_variance) + distance**2 / jnp.exp(log_variance) - 1)
    bound = jnp.where(jnp.isfinite(at.low), bound, 0).mean(axis=(1, 2, 3)) / jnp.log(2.0)
    return jnp.mean((predicted - eps) ** 2, axis=(1, 2, 3)), bound, row


def _held_out(models: Any, table: ddpm.DDPMTable, tokenizer: Any) -> dict[str, float]:
    """Returns the error of the noise and the bound of the variance for whole images without disturbance."""
    images = make_images("held_out", HELD_OUT_ITEMS)

    @jax.jit
    def measure(models, k, batch, key):
        text = prompts.encode_tokens_for_pixels(models.text_encoder, batch["tokens"])
        return noise_error_and_bound(models.unet, table, k, batch["x0"], text, key)[:2]

    figures: dict[str, float] = {}
    for t in NOISE_LEVELS:
        measured = []
        for i in range(10):
            rng = items.generator("color", "held_out", i)
            batch = draw_batch(rng, images, images[0], tokenizer, 12, pixel.WIDTH, disturbed=0, dropout=0)
            measured.append(measure(models, jnp.full(12, len(table.t) - 1 - t), batch, jax.random.key(i)))
        error, bound = np.mean(measured, axis=(0, 2))
        figures |= {f"noise_mse_t{t}": round(float(error), 4), f"bound_t{t}": round(float(bound), 4)}
    return figures
