"""Colorization by a latent model, with fake models."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.colorize import latent
from its_jax.diffusion import denoise
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import solver_table

SEEDS = np.array([5, 6], np.uint32)
COLOR = np.array([0.3, 0.0, -0.3], np.float32)


@jax.tree_util.register_static
class FakeVAE:
    """A VAE whose latents are images of half the size."""

    config = types.SimpleNamespace(scaling_factor=0.5, factor=2)

    def encode(self, x):
        b, h, w, c = x.shape
        return types.SimpleNamespace(mean=x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4)))

    def decode(self, z):
        return jnp.repeat(jnp.repeat(z, 2, axis=1), 2, axis=2)


def test_denoising_ends_at_the_image_that_the_model_predicts():
    schedule = NoiseSchedule(1000, 0.00085, 0.012, "scaled_linear", set_alpha_to_one=False, steps_offset=1)
    table = jax.tree.map(jnp.asarray, solver_table(schedule, 10, latent.SOLVER))
    gray = np.random.default_rng(0).uniform(0.1, 0.9, (2, 4, 6, 1)).astype(np.float32)
    gray = np.repeat(np.repeat(gray, 2, axis=1), 2, axis=2)

    def unet(x, t, text):
        """Predicts the noise in a mid-gray image with that color."""
        row = jax.tree.map(lambda column: column[jnp.argmax(table.t == t[0])], table)
        z = (2 * (0.5 + COLOR * text.mean()) - 1) * FakeVAE.config.scaling_factor
        return (x - row.alpha * z) / row.sigma

    steps = len(table.t)
    texts, scale = np.ones((2, 2, 7, 4), np.float32), np.full(2, 3.0, np.float32)
    term = denoise.Term(texts, scale, np.ones((2, steps), np.float32))
    state = latent.initial_state(FakeVAE(), jax.tree.map(lambda column: column[2], table), gray, SEEDS)
    models, selected = (jax.tree_util.Partial(unet),), np.ones((1, steps), np.int32)
    for first, last in ((2, 5), (5, 10)):
        state = denoise.denoise(models, (term,), table, selected, state, first, last)
    expected = 0.5 + np.broadcast_to(COLOR, (*gray.shape[:3], 3))
    np.testing.assert_allclose(latent.decode(FakeVAE(), state.x), expected, rtol=0, atol=1e-4)
