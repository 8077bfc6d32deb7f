"""Colorization with a latent model: SDEdit (Meng et al. 2022, arXiv 2108.01073).

The gray image is noised to a step of the schedule and denoised with the prompt from there on. Only the colors of the
result are used, because its gray is replaced once, at the end. Replacing the gray at each step, through the VAE, gives
random colors, because it keeps what the estimates of noisy steps decode to (see docs/method.md).
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from its_jax.diffusion import denoise
from its_jax.diffusion.solvers import SolverTable
from its_jax.pipeline import decoding

SOLVER = "euler"  # takes the step of DDIM, and ends at the clean latent


def initial_state(vae: Any, row: SolverTable, gray: Array, seeds: Array) -> denoise.State:
    """Returns the state before step `row`: the noised latents of gray images `[b H W 1]` in [0, 1]."""
    z = lax.map(lambda image: _encode(vae, image), gray)
    return denoise.initial_state(denoise.initial_noise(seeds, z.shape[1:]), z, row)


def decode(vae: Any, z: Array) -> Array:
    """Decodes latents `[b h w c]` as images `[b H W 3]` in [0, 1]."""
    return lax.map(lambda z: decoding.decode_latents(vae, z[None])[0], z)


def _encode(vae, image):
    """Encodes a gray image `[H W 1]` in [0, 1] as a latent `[h w c]`."""
    image = jnp.broadcast_to(image, (*image.shape[:2], 3))
    return decoding.encode_image(vae, image[None])[0]
