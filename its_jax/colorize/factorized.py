"""Colorization with a pixel model: Factorized Diffusion (Geng, Park, Owens; ECCV 2024, arXiv 2404.11615).

At each step the gray of x is replaced by that of the given image with the noise of that step, and the model predicts
the colors. In the paper each of the two components of `luminance.py` contributes its part of the noise,
eps = 0.5 (2 L(eps_L) + 2 AB(eps_AB)). Both have the same prompt here, so that this is eps itself and the model is
evaluated once. `its_jax.diffusion.ddpm` has the steps.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from its_jax.colorize import luminance
from its_jax.diffusion import ddpm
from its_jax.diffusion.windows import Windows

# The uses of noise. A sample draws different noise for each use, in each stage and at each step.
START, STEP, GRAY, SMALL = range(4)
_MAX_STEPS = 2**16  # more than any schedule has


def draw(seeds: Array, stage: int, use: int, k: Array | int, shape: Sequence[int]) -> Array:
    """Draws standard normal float32 `[b h w c]` for step `k`; an image depends only on its own uint32 seed.

    Args:
      use: `START`, `STEP`, `GRAY` or `SMALL`.
      shape: h, w, c.
    """
    h, w, c = shape
    return ddpm.step_noise(seeds, (4 * stage + use) * _MAX_STEPS + k, (h, w, c))


def initial_latent(row: ddpm.DDPMTable | None, gray: Array, seeds: Array, *, stage: int) -> Array:
    """Returns x before step `row`: the gray image `[b h w 1]` in [-1, 1], noised on three channels `[b h w 3]`.

    Without a row it returns noise alone, as before the first step. In the first stage the authors reset x to the noised
    image at their `start_diffusion_step`. Earlier steps do not contribute to the result, so they are not made here.
    """
    noise = draw(seeds, stage, START, 0, (*gray.shape[1:3], 3))
    return noise if row is None else row.alpha * gray + row.sigma * noise


def add_noise(small: Array, seeds: Array, *, schedule: ddpm.DDPMSchedule, level: int, stage: int) -> Array:
    """Noises the upsampled image of the first stage `[b h w 3]`, about [-1, 1], as the second stage takes it."""
    noise = draw(seeds, stage, SMALL, 0, small.shape[1:])
    return ddpm.add_noise(schedule, small, jnp.full(len(small), level), noise)


def denoise(
    unet: Any,
    table: ddpm.DDPMTable,
    x: Array,
    gray: Array,
    texts: Array,
    guidance_scale: Array,
    seeds: Array,
    small: Array | None,
    first: Array,
    last: Array,
    *,
    schedule: ddpm.DDPMSchedule,
    stage: int,
    level: int | None = None,
    windows: Windows | None = None,
) -> Array:
    """Runs steps first, ..., last - 1 of one stage. Splitting a run into several calls does not change the result.

    Args:
      unet: has `project_text` and `predict`, see `PixelUNet`.
      table: see `ddpm.ddpm_table`.
      x: `[b h w 3]`.
      gray: `[b h w 1]` in [-1, 1].
      texts: embedded negative and positive prompts, `[b 2 n d]`.
      guidance_scale: `[b]`.
      small: for the second stage, the upsampled and noised image of the first one, `[b h w 3]`.
      level: for the second stage, the timestep of the noise in `small`.

    Returns:
      x, which after the last step is the image, about [-1, 1].
    """
    b, shape = len(x), x.shape[1:]
    text = unet.project_text(texts.reshape(-1, *texts.shape[2:]))
    condition = jnp.zeros_like(x) if small is None else small
    channels = 3 if small is None else 6

    def predict(x, t):
        inputs = jnp.repeat(x[..., :channels], 2, axis=0)
        levels = None if level is None else jnp.full(len(inputs), level)
        predicted = unet.predict(inputs, jnp.full(len(inputs), t), text, levels)
        guided = ddpm.guided_noise(predicted.reshape(b, 2, *predicted.shape[1:]), guidance_scale)
        return jnp.concatenate(guided, axis=-1)

    def step(k, x):
        row = jax.tree.map(lambda column: column[k], table)
        noised_gray = row.alpha * gray + row.sigma * draw(seeds, stage, GRAY, k, shape)
        x = luminance.with_gray(x, noised_gray)
        # As many channels go in as come out, because windows are averaged in place.
        inputs = jnp.concatenate([x, condition], axis=-1)
        if windows:
            predicted, _ = windows.average(lambda x, caches: (predict(x, row.t), caches), inputs)
        else:
            predicted = predict(inputs, row.t)
        eps, v = jnp.split(predicted, 2, axis=-1)
        return ddpm.step(schedule, row, x, eps, v, draw(seeds, stage, STEP, k, shape))

    return lax.fori_loop(first, last, step, x)


def downsample(image: Array, reduction: int) -> Array:
    """Averages blocks of reduction x reduction pixels of `[b h w c]`."""
    b, h, w, c = image.shape
    return image.reshape(b, h // reduction, reduction, w // reduction, reduction, c).mean(axis=(2, 4))


def upsample(image: Array, factor: int) -> Array:
    """Enlarges `[b h w c]` by bilinear interpolation with aligned corners, as in the training of IF's second stage."""
    rows, columns = (jnp.asarray(_bilinear_matrix(n, factor * n)) for n in image.shape[1:3])
    return jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, image, precision="highest")


def _bilinear_matrix(n, size):
    """Returns the weights of the given pixels in each of `size` new ones, float32 `[size n]`."""
    position = np.linspace(0, n - 1, size)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(n))).astype(np.float32)
