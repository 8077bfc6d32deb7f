"""Views: each has an exact inverse, does what its name says, and moves latent cells as it moves pixels."""

import jax.numpy as jnp
import numpy as np
import pytest

from its_jax.diffusion.views import VIEWS

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 3)), jnp.float32)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_invert_undoes_apply(view):
    np.testing.assert_array_equal(view.invert(view.apply(X)), X)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("identity", X),
        ("block_rearrange", np.concatenate([X[:, :, :3], X[:, :, 3:]], axis=1)),
        ("flip_horizontal", X[:, :, ::-1]),
        ("flip_vertical", X[:, ::-1]),
        ("rotate_90", np.stack([np.rot90(x) for x in X])),
        ("rotate_180", X[:, ::-1, ::-1]),
        ("rotate_270", np.stack([np.rot90(x, 3) for x in X])),
    ],
)
def test_a_view_does_what_its_name_says(name, seen):
    np.testing.assert_array_equal(VIEWS[name].apply(X), seen)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_latent_cells_move_as_their_pixels_do(view):
    pixels = jnp.repeat(jnp.repeat(X, 8, axis=1), 8, axis=2)
    cells = jnp.repeat(jnp.repeat(view.apply(X), 8, axis=1), 8, axis=2)
    np.testing.assert_array_equal(view.apply(pixels), cells)
