"""Colouring with a model of latents: at each step the estimated picture's grey is put right, through the VAE.

    x0 = (x - sigma eps) / alpha
    z0 = E(g + AB(D(x0)))       within the range of colours
    x' = alpha' z0 + sigma' eps

That is denoising with a known part in which the estimate is replaced and the noise is kept (DDNM, Wang et al. 2022,
arXiv 2212.00490, eq. 14), with L for the linear operator. `denoise.py` has the notation.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from its_jax import denoise, stages
from its_jax.colour import views

SOLVER = "euler"  # DDIM's step, which ends at the clean latent


def begin(vae: Any, row: denoise.SolverRows, grey: Array, seeds: Array) -> Array:
    """x before step `row`: the latent of the grey picture `[b H W 1]` in [0, 1], noised, `[b h w c]`."""
    z = lax.map(lambda g: _encoded(vae, g), grey)
    return row.alpha * z + row.sigma * denoise.initial_noise(seeds, z.shape[1:])


def colour(
    unet: Any,
    vae: Any,
    rows: denoise.SolverRows,
    term: denoise.Term,
    x: Array,
    grey: Array,
    first: Array,
    last: Array,
) -> Array:
    """Runs steps first, ..., last - 1; cut into several calls it keeps its bits.

    Args:
      unet: as `denoise.denoise` takes it. term: its weights are of no effect. x: `[b h w c]`.
      grey: `[b H W 1]` in [0, 1].
    """

    def step(k, x):
        row = jax.tree.map(lambda column: column[k], rows)
        eps, _ = denoise.guided_noise(unet, x, row.t, term, k=k)
        x0 = (x - row.sigma * eps) / row.alpha
        # One picture after the other: the VAE takes much memory at a picture's full size.
        z0 = lax.map(lambda pair: _put_right(vae, *pair), (x0, grey))
        return row.cx * (row.alpha * z0 + row.sigma * eps) + row.ce * eps

    return lax.fori_loop(first, last, step, x)


def decoded(vae: Any, z: Array) -> Array:
    """Latents `[b h w c]` -> pictures `[b H W 3]` in [0, 1]."""
    return lax.map(lambda z: stages.decode_latents(vae, z[None])[0], z)


def _put_right(vae, x0, grey):
    """One estimate `[h w c]` with the grey `[H W 1]`."""
    return _encoded(vae, views.in_gamut(grey, stages.decode_latents(vae, x0[None])[0]))


def _encoded(vae, picture):
    """`[H W 1]` or `[H W 3]` in [0, 1] -> `[h w c]`."""
    picture = jnp.broadcast_to(picture, (*picture.shape[:2], 3))
    return stages.encode_picture(vae, picture[None])[0]
