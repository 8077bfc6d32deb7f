"""The training of the embedded model of pixels: pictures in colour, disturbed as fused samples are, and captions.

Its loss is that of the noise, and beside it, for the variance of the steps, the bound on the likelihood, in which the
noise is held (Nichol and Dhariwal 2021, arXiv 2102.09672, section 3.1).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from its_jax.colorize import factorized
from its_jax.diffusion import ddpm
from its_jax.pipeline import prompts
from its_jax.tiny import judges, recipe
from its_jax.tiny.data import colors
from its_jax.tiny.data import items as data_items
from its_jax.tiny.training import pixel_folder
from its_jax.tiny.training.loop import fit

TRAIN_ITEMS, HELD_OUT_ITEMS = 1800, 120
CAPTION_DROPOUT = 0.12
DISTURBED = 0.7  # share of pictures that are as fused samples are
# Most steps see a quarter of a canvas; the last ones of a cycle whole canvases, as sampling has them.
CROP, CROP_SHARE = 32, 0.85
VARIANCE_WEIGHT = 1e-3
MIN_SNR_GAMMA = 5.0  # arXiv 2303.09556
NOISE_LEVELS = 100, 300, 500


def train(workdir):
    """Returns the averaged parameters of `pixels.text_and_unet`, the held-out figures and the seconds it took."""
    stage, made_of, tokenizer = recipe.STAGES["color"], drawn("train", TRAIN_ITEMS), pixel_folder.tokenizer()
    others = data_items.make_spectrograms("train", TRAIN_ITEMS // 2)

    def batches(step):
        crop = stage.progress(step) < CROP_SHARE
        size, width = (stage.batch, CROP) if crop else (stage.batch // 4, pixel_folder.WIDTH)
        rng = data_items.generator("color", "train", step)
        return batch(rng, made_of, others, tokenizer, size, width)

    graph, params = nnx.split(pixel_folder.text_and_unet())
    rows = ddpm.ddpm_table(schedule(), schedule().num_train_timesteps)

    def loss(params, batch, key):
        for_k, for_noise = jax.random.split(key)
        k = jax.random.randint(for_k, (len(batch["x0"]),), 0, len(rows.t))
        error, bound, row = errors(nnx.merge(graph, params), rows, k, batch, for_noise)
        weight = jnp.minimum(1.0, MIN_SNR_GAMMA * row.sigma**2 / row.alpha**2)
        return jnp.mean(weight * error + VARIANCE_WEIGHT * bound)

    params, seconds = fit(loss, params, batches, stage, workdir / "color")
    return params, _held_out(nnx.merge(graph, params), rows, tokenizer), seconds


def schedule():
    return ddpm.DDPMSchedule.from_dict(pixel_folder.SCHEDULER)


def drawn(split, count):
    """Of each picture its grey, uint8 `[count, 128, 512]`, and its tints, as small as the model paints them."""
    greys, tints = [], []
    for i in range(count):
        grey, tint = colors.draw(
            data_items.SUBJECTS[i % len(data_items.SUBJECTS)], data_items.generator("picture", split, i)
        )
        greys.append(data_items.to_bytes(grey))
        tints.append(data_items.to_bytes(factorized.downsample(tint[None], pixel_folder.REDUCTION)[0]))
    return np.stack(greys), np.stack(tints)


def batch(rng, made_of, others, tokenizer, size, width, *, disturbed=DISTURBED, dropout=CAPTION_DROPOUT):
    """Pictures "x0" float32 `[size, 32, width, 3]` in [-1, 1], and tokens of their captions.

    Args:
      made_of: of `drawn`. others: spectrograms, which disturb them.
    """
    greys, tints = made_of
    chosen, starts = rng.integers(len(greys), size=size), rng.integers(pixel_folder.WIDTH - width + 1, size=size)
    x0, captions = [], []
    for i, start in zip(chosen, starts, strict=True):
        place = slice(pixel_folder.REDUCTION * start, pixel_folder.REDUCTION * (start + width))
        grey = greys[i][:, place]
        if rng.random() < disturbed:
            grey = judges.disturbed(rng, grey, others[rng.integers(len(others))][:, place])
        else:
            grey = grey / np.float32(255)
        small = factorized.downsample(grey[None, ..., None], pixel_folder.REDUCTION)[0, ..., 0]
        x0.append(colors.color_share(small, tints[i][:, start : start + width] / np.float32(255)) * 2 - 1)
        subject = data_items.SUBJECTS[i % len(data_items.SUBJECTS)]
        captions.append("" if rng.random() < dropout else colors.caption(subject, rng))
    return {"x0": np.stack(x0), "tokens": prompts.tokenize_for_pixels(tokenizer, captions)}


def errors(models, rows, k, batch, key):
    """Of the noise the mean squared error, of the variance the bound in bits, `[b]` each; and the rows, `[b]`.

    Args:
      k: indices of rows, `[b]`.
    """
    row = jax.tree.map(lambda column: jnp.asarray(column)[k], rows)
    at = jax.tree.map(lambda column: column[:, None, None, None], row)
    x0 = batch["x0"]
    eps = jax.random.normal(key, x0.shape)
    x = at.alpha * x0 + at.sigma * eps
    text = prompts.encode_tokens_for_pixels(models.text_encoder, batch["tokens"])
    predicted, v = jnp.split(models.unet(x, row.t, text).astype(jnp.float32), 2, axis=-1)
    apart = at.c0 * at.sigma / at.alpha * lax.stop_gradient(predicted - eps)  # of the means of a step
    # At timestep 0 nothing is drawn.
    low = jnp.where(jnp.isfinite(at.low), at.low, 0)
    log_variance = low + (v + 1) / 2 * at.span
    bound = 0.5 * (log_variance - low + jnp.exp(low - log_variance) + apart**2 / jnp.exp(log_variance) - 1)
    bound = jnp.where(jnp.isfinite(at.low), bound, 0).mean(axis=(1, 2, 3)) / jnp.log(2.0)
    return jnp.mean((predicted - eps) ** 2, axis=(1, 2, 3)), bound, row


def _held_out(models, rows, tokenizer):
    """Of whole pictures, as they are drawn: the error of the noise at some timesteps, and the bound at them."""
    made_of = drawn("held_out", HELD_OUT_ITEMS)
    measure = jax.jit(lambda models, k, batch, key: errors(models, rows, k, batch, key)[:2])
    figures = {}
    for t in NOISE_LEVELS:
        found = []
        for i in range(10):
            rng = data_items.generator("color", "held_out", i)
            items = batch(rng, made_of, None, tokenizer, 12, pixel_folder.WIDTH, disturbed=0, dropout=0)
            found.append(measure(models, jnp.full(12, len(rows.t) - 1 - t), items, jax.random.key(i)))
        error, bound = np.mean(found, axis=(0, 2))
        figures |= {f"noise_mse_t{t}": round(float(error), 4), f"bound_t{t}": round(float(bound), 4)}
    return figures
