"""The training of the pixel model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from its_jax.pipeline import prompts
from its_jax.tiny.data import items
from its_jax.tiny.recipe import pixel
from its_jax.tiny.training import color


@pytest.fixture(scope="module")
def batch():
    images = color.make_images("train", 12)
    others = items.make_spectrograms("train", 12)
    rng = np.random.default_rng(0)
    return color.draw_batch(rng, images, others, pixel.tokenizer(), 4, 32, disturbed=0.5, dropout=0.5)


def test_batches_have_colored_images_and_captions(batch):
    assert batch["x0"].shape == (4, 32, 32, 3) and np.abs(batch["x0"]).max() <= 1
    assert np.ptp(batch["x0"], axis=-1).max() > 0.2 and batch["tokens"].shape == (4, 77)


def test_the_bound_is_smallest_at_the_right_variance(batch):
    """If the noise of a model has a constant error, the best variance lies above the smallest one."""
    x0, key = batch["x0"], jax.random.key(0)
    eps = jax.random.normal(key, x0.shape)

    def bound(noise_error, v):
        def unet(x, t, text):
            return jnp.concatenate([eps + noise_error, jnp.full_like(x, v)], axis=-1)

        k = jnp.array([300, 600, 900, 999])
        error, found, _ = color.noise_error_and_bound(unet, color.ddpm_table(), k, x0, None, key)
        np.testing.assert_allclose(error, noise_error**2, rtol=1e-4)
        return np.asarray(found)

    np.testing.assert_allclose(bound(0.0, -1.0), 0, atol=1e-6)  # the true posterior of the step
    assert (bound(0.0, 1.0)[:3] > bound(0.0, -1.0)[:3]).all()
    assert (bound(3.0, -1.0)[:3] > bound(3.0, 1.0)[:3]).all()
    assert bound(3.0, 1.0)[3] == 0  # The last step draws nothing.


@pytest.mark.usefixtures("quick_programs")
@pytest.mark.slow
def test_every_parameter_has_a_gradient(batch):
    graph, params = nnx.split(pixel.random_text_and_unet())
    table = color.ddpm_table()

    @jax.jit
    def gradient(params, batch):
        def loss(params):
            models = nnx.merge(graph, params)
            text = prompts.encode_tokens_for_pixels(models.text_encoder, batch["tokens"])
            k = jnp.array([0, 300, 600, 900])
            error, bound, _ = color.noise_error_and_bound(models.unet, table, k, batch["x0"], text, jax.random.key(0))
            return error.mean() + bound.mean()

        return jax.grad(loss)(params)

    for path, leaf in nnx.to_flat_state(gradient(params, batch)):
        assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path
