"""Cached inner features, and evaluation without the negative prompt."""

import dataclasses

import jax
import numpy as np

from its_jax.diffusion import denoise
from its_jax.diffusion.feature_cache import Mode, empty_caches
from its_jax.diffusion.term_schedule import select_modes
from tests.helpers.denoising import WEIGHTS, fake_eps, make_run, relative_error


class LayeredModel:
    """A model with inner and outer layers, which records the batch size of each evaluation of the inner ones."""

    def __init__(self, weights):
        self.weights, self.inner_batches = weights, []

    def __call__(self, x, t, text):
        return self.with_features(x, t, text)[0]

    def with_features(self, x, t, text):
        jax.debug.callback(lambda: self.inner_batches.append(len(x)))
        features = fake_eps(self.weights, x, t, text)
        return self.from_features(x, t, text, features), features

    def from_features(self, x, t, text, features):
        return features + 0.1 * x


def run_layered(modes, select, **kw):
    """Returns the latent, and for each model the batch sizes at which its inner layers were evaluated."""
    terms, table, active, state, last = make_run(num_steps=10, **kw)
    terms = [dataclasses.replace(term, modes=modes) for term in terms]
    models = [LayeredModel(w) for w in WEIGHTS]
    run = jax.jit(lambda *args: denoise.denoise.__wrapped__(models, *args))
    state = state._replace(caches=empty_caches(models, terms, state.x))
    x = run(terms, table, select(active), state, 0, last).x
    jax.effects_barrier()
    return np.array(x), [model.inner_batches for model in models]


def test_inner_features_are_computed_once_per_cache_interval():
    full, cached = Mode(), Mode(cached=True)

    def interval(n):
        return lambda active: np.stack([select_modes(a, a, n, (full, cached)) for a in active])

    expected, batches = run_layered((full,), interval(1))
    assert [len(of_model) for of_model in batches] == [8, 10]
    x, batches = run_layered((full, cached), interval(1))
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-4)
    x, batches = run_layered((full, cached), interval(3))
    assert [len(of_model) for of_model in batches] == [3, 4]  # at steps 2, 5, 8; and at 0, 3, 6, 9
    assert 1e-3 < relative_error(x, expected) < 1


def test_unguided_steps_evaluate_only_the_positive_prompt():
    guided, unguided = Mode(), Mode(guided=False)
    interval = np.isin(np.arange(1000), range(4, 7))

    def select(active):
        return np.stack([select_modes(a, interval, 1, (guided, unguided)) for a in active])

    x, batches = run_layered((guided, unguided), select, guidance=(1, 1))
    np.testing.assert_allclose(x, run_layered((guided,), lambda active: active, guidance=(1, 1))[0], atol=1e-5)
    assert batches[1] == [2] * 4 + [4] * 3 + [2] * 3
