"""Colouring with a model of latents: the grey picture, noised to a step of the schedule, is denoised with the prompt
from there on (SDEdit, Meng et al. 2022, arXiv 2108.01073), and of what comes out the colours count.

The grey is put right once, at the end. To do so at each step, through the VAE, was tried: what the estimates of noisy
steps decode to is then kept, and colours are those of chance (docs/method.md).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from its_jax.diffusion import denoise
from its_jax.diffusion.solvers import SolverTable
from its_jax.pipeline import decoding

SOLVER = "euler"  # DDIM's step, which ends at the clean latent


def initial_latent(vae: Any, row: SolverTable, grey: Array, seeds: Array) -> Array:
    """x before step `row`: the latent of the grey picture `[b H W 1]` in [0, 1], noised, `[b h w c]`."""
    z = lax.map(lambda g: _encoded(vae, g), grey)
    return row.alpha * z + row.sigma * denoise.initial_noise(seeds, z.shape[1:])


def colorize(unet: Any, rows: SolverTable, term: denoise.Term, x: Array, first: Array, last: Array) -> Array:
    """Runs steps first, ..., last - 1; cut into several calls it keeps its bits.

    Args:
      unet: as `denoise.denoise` takes it. term: its weights are of no effect. x: `[b h w c]`.
    """

    def step(k, x):
        row = jax.tree.map(lambda column: column[k], rows)
        eps, _ = denoise.guided_noise(unet, x, row.t, term, k=k)
        return row.cx * x + row.ce * eps

    return lax.fori_loop(first, last, step, x)


def decode(vae: Any, z: Array) -> Array:
    """Latents `[b h w c]` -> pictures `[b H W 3]` in [0, 1]."""
    return lax.map(lambda z: decoding.decode_latents(vae, z[None])[0], z)


def _encoded(vae, picture):
    """`[H W 1]` in [0, 1] -> `[h w c]`."""
    picture = jnp.broadcast_to(picture, (*picture.shape[:2], 3))
    return decoding.encode_image(vae, picture[None])[0]
