"""Colouring with a model of pixels, by factorised diffusion (Geng, Park, Owens; ECCV 2024, arXiv 2404.11615).

At each step the grey of x becomes that of the given picture with the noise of that step, and the model fills in the
colours. Each of the two views of `views.py` takes its part of the noise, eps = 0.5 (2 L(eps_L) + 2 AB(eps_AB)): with
one prompt for both that is eps itself, so that the model is asked once. `ddpm.py` has the steps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from its_jax.colorize import luminance
from its_jax.diffusion import ddpm
from its_jax.diffusion.windows import Windows

# What noise is drawn for; those of a sample differ, in each stage and at each step.
START, STEP, GRAY, SMALL = range(4)
_DRAWS = 2**16  # of one kind, more than a schedule has steps


def draw(seeds: Array, stage: int, use: int, k: Array | int, shape: tuple[int, int, int]) -> Array:
    """Standard normal float32 `[b *shape]`; a picture's depends on its own uint32 seed only."""
    return ddpm.step_noise(seeds, (4 * stage + use) * _DRAWS + k, shape)


def initial_latent(row: ddpm.DDPMTable | None, grey: Array, seeds: Array, *, stage: int) -> Array:
    """x before step `row`: the grey picture `[b h w 1]` in [-1, 1], noised on three channels `[b h w 3]`; or before the
    first step (None) noise alone.

    In the first stage the authors reset x to the noised picture at their `start_diffusion_step`, so that no step before
    has a part in the result: none is made.
    """
    noise = draw(seeds, stage, START, 0, (*grey.shape[1:3], 3))
    return noise if row is None else row.alpha * grey + row.sigma * noise


def add_noise(small: Array, seeds: Array, *, schedule: ddpm.DDPMSchedule, level: int, stage: int) -> Array:
    """The enlarged picture of the first stage `[b h w 3]`, about [-1, 1], as the second is given it."""
    noise = draw(seeds, stage, SMALL, 0, small.shape[1:])
    return ddpm.add_noise(schedule, small, jnp.full(len(small), level), noise)


def denoise(
    unet: Any,
    rows: ddpm.DDPMTable,
    x: Array,
    grey: Array,
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
    """Runs steps first, ..., last - 1 of one stage; cut into several calls it keeps its bits.

    Args:
      unet: has `project_text` and `predict` of `PixelUNet`.
      x: `[b h w 3]`. grey: `[b h w 1]` in [-1, 1].
      texts: of negative and positive prompt, `[b 2 n d]`. guidance_scale: `[b]`.
      small: of the second stage, the enlarged and noised picture of the first, `[b h w 3]`. level: its timestep.

    Returns:
      x, which is the picture, about [-1, 1], after the last step.
    """
    b, shape = len(x), x.shape[1:]
    text = unet.project_text(texts.reshape(-1, *texts.shape[2:]))
    beside = jnp.zeros_like(x) if small is None else small
    channels = 3 if small is None else 6

    def step(k, x):
        row = jax.tree.map(lambda column: column[k], rows)
        g = row.alpha * grey + row.sigma * draw(seeds, stage, GRAY, k, shape)
        x = luminance.with_gray(x, g)

        def predict(x, kept):
            seen = jnp.repeat(x[..., :channels], 2, axis=0)
            levels = None if level is None else jnp.full(len(seen), level)
            predicted = unet.predict(seen, jnp.full(len(seen), row.t), text, levels)
            guided = ddpm.guided_noise(predicted.reshape(b, 2, *predicted.shape[1:]), guidance_scale)
            return jnp.concatenate(guided, axis=-1), kept

        # As many channels go in as come out, for windows are averaged in place.
        both = jnp.concatenate([x, beside], axis=-1)
        predicted, _ = windows.average(predict, both) if windows else predict(both, ())
        eps, v = jnp.split(predicted, 2, axis=-1)
        return ddpm.step(schedule, row, x, eps, v, draw(seeds, stage, STEP, k, shape))

    return lax.fori_loop(first, last, step, x)


def downsample(picture: Array, reduction: int) -> Array:
    """The mean of reduction x reduction pixels, `[b h w c]`."""
    b, h, w, c = picture.shape
    return picture.reshape(b, h // reduction, reduction, w // reduction, reduction, c).mean(axis=(2, 4))


def upsample(picture: Array, reduction: int) -> Array:
    """So many times the size, `[b h w c]`, bilinear with corners on corners, as IF's second stage was trained."""
    rows, columns = (jnp.asarray(_bilinear(n, reduction * n)) for n in picture.shape[1:3])
    return jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, picture, precision="highest")


def _bilinear(n, wanted):
    """What each of the wanted pixels takes of those that are there, float32 `[wanted n]`."""
    place = np.linspace(0, n - 1, wanted)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(n))).astype(np.float32)
