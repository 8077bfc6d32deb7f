"""The learning rates of training stages."""

import numpy as np

from its_jax.tiny.training.schedule import Stage


def test_the_learning_rate_restarts_at_each_cycle():
    stage = Stage([(300, 1.0), (100, 0.5)], batch=1)
    assert stage.steps == 400
    assert [stage.progress(step) for step in (0, 150, 300, 375)] == [0, 0.5, 0, 0.75]
    rate = stage.learning_rate()
    np.testing.assert_allclose([rate(step) for step in (0, 30, 300, 310)], [0, 1, 0, 0.5], atol=1e-6)
    assert rate(299) < 1e-3 and rate(399) < 1e-3


def test_a_shortened_cycle_begins_like_the_planned_one():
    planned, short = Stage([(400, 1.0)], batch=1), Stage([(300, 1.0)], batch=1)
    rate = Stage([(300, 1.0)], batch=1, shortened=(200, 400)).learning_rate()
    assert [rate(step) for step in (0, 40, 199)] == [planned.learning_rate()(step) for step in (0, 40, 199)]
    assert [rate(step) for step in (200, 299)] == [short.learning_rate()(step) for step in (200, 299)]
