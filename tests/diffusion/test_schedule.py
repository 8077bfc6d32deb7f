"""Noise schedules: timesteps, and the scheduler files of diffusers."""

import json

import diffusers
import numpy as np
import pytest

from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.errors import UserError
from tests.helpers.denoising import SD15


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_every_step_count_has_valid_falling_timesteps(spacing):
    schedule = NoiseSchedule.from_dict(SD15 | {"timestep_spacing": spacing})
    for num_steps in range(1, 1001):
        t = schedule.timesteps(num_steps)
        assert len(t) == num_steps and t[0] <= 999 and t[-1] >= 0 and np.all(np.diff(t) < 0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid'"),
        ({"timestep_spacing": "linspace"}, "timestep_spacing='linspace'"),
        ({"prediction_type": "v_prediction"}, "prediction_type='v_prediction'"),
        ({"clip_sample": True}, "clip_sample=True"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"warp": 9}, "warp"),
    ],
)
def test_unsupported_fields_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        NoiseSchedule.from_dict(SD15 | change)


def test_a_schedule_without_its_betas_is_refused():
    with pytest.raises(UserError, match="beta_end"):
        NoiseSchedule.from_dict({name: value for name, value in SD15.items() if name != "beta_end"})


@pytest.mark.parametrize("name", ["PNDM", "DDIM", "EulerDiscrete", "DPMSolverMultistep"])
def test_files_of_other_schedulers_are_read(name):
    """diffusers writes every field of the class after `from_config`."""
    scheduler = getattr(diffusers, f"{name}Scheduler").from_config(SD15 | {"timestep_spacing": "leading"})
    schedule = NoiseSchedule.from_dict(json.loads(scheduler.to_json_string()))
    np.testing.assert_allclose(schedule.alphas_cumprod(), scheduler.alphas_cumprod, rtol=1e-5)
    assert schedule.steps_offset == 1 and schedule.timestep_spacing == "leading"
