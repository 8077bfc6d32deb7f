"""The training of judges."""

import pytest

from its_jax.tiny.training import judge
from its_jax.tiny.training.schedule import Stage


@pytest.mark.slow
def test_a_judge_learns_far_above_chance_in_a_few_steps(tmp_path):
    stage = Stage([(80, 2e-3)], batch=12, ema=0.99)
    _, _, figures = judge.train("sound", tmp_path, stage=stage, num_train=24, num_held_out=24)
    assert figures["held_out"] >= 0.5, figures
