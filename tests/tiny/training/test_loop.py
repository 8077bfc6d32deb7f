"""The training loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from its_jax.tiny.training import loop
from its_jax.tiny.training.schedule import Stage


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(tmp_path):
    stage = Stage([(30, 1e-2)], batch=4)
    params = {"w": jnp.ones(3)}

    def loss(params, batch, key):
        return jnp.mean((batch @ params["w"] - 1.0) ** 2)

    def batches(step):
        return np.random.default_rng(step).standard_normal((stage.batch, 3), dtype=np.float32)

    def killed_at_17(step):
        if step == 17:
            raise Killed
        return batches(step)

    requested = []

    def recorded(step):
        requested.append(step)
        return batches(step)

    whole, _ = loop.fit(loss, params, batches, stage, tmp_path / "whole")
    with pytest.raises(Killed):
        loop.fit(loss, params, killed_at_17, stage, tmp_path / "killed", save_every_s=0)
    resumed, _ = loop.fit(loss, params, recorded, stage, tmp_path / "killed", save_every_s=0)
    assert requested == list(range(17, 30))
    np.testing.assert_array_equal(whole["w"], resumed["w"])
    restored, _ = loop.fit(loss, params, recorded, stage, tmp_path / "killed")
    assert len(requested) == 13, "a finished stage must only be restored"
    np.testing.assert_array_equal(whole["w"], restored["w"])


def test_rates_scale_the_learning_rate_of_single_parameters(tmp_path):
    params, rates = {"a": jnp.zeros(()), "b": jnp.zeros(())}, {"a": 1.0, "b": 0.0}

    def loss(params, batch, key):
        return (params["a"] + params["b"] - 1) ** 2

    result, _ = loop.fit(loss, params, lambda step: 0.0, Stage([(3, 0.1)], batch=1), tmp_path, rates=rates)
    assert result["a"] > 0 and result["b"] == 0


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    with pytest.raises(FloatingPointError, match="not finite"):
        loop.fit(
            lambda params, batch, key: jnp.sum(params) * jnp.nan,
            jnp.ones(2),
            lambda step: 0.0,
            Stage([(5, 1e-2)], batch=1),
            tmp_path / "bad",
        )
