"""DDPM, the sampler of DeepFloyd IF, against diffusers' DDPMScheduler."""

import diffusers
import jax
import numpy as np
import pytest
import torch

from its_jax.diffusion.ddpm import DDPMSchedule, add_noise, ddpm_table, guided_noise, step, step_noise, threshold
from its_jax.errors import UserError
from tests.helpers.torch_twins import normal, read

STEPS, SHAPE, SCALES = 30, (8, 12), np.array([7.0, 1.0], np.float32)
SCHEDULERS = {
    "stage I": read("configs", "if_i.scheduler"),
    "stage II": read("configs", "if_ii.scheduler"),
    "clipped": read("configs", "if_i.scheduler") | {"thresholding": False, "clip_sample_range": 0.7},
    "not bounded, linear": dict(beta_schedule="linear", clip_sample=False, variance_type="learned_range"),
    "fixed variance, scaled": dict(beta_schedule="scaled_linear", variance_type="fixed_small"),
    "ends at a later timestep": read("configs", "if_i.scheduler") | {"steps_offset": 1},
}
advance = jax.jit(step, static_argnums=0)


def to_torch(a):
    """Converts `[b, h, w, c]` to a tensor `[b, c, h, w]`."""
    return torch.from_numpy(np.moveaxis(np.asarray(a), -1, 1).copy())


def fake_prediction(k, x):
    """Returns a plausible prediction `[b 2 h w 6]`: nearly the noise in x, and v in [-1, 1]."""
    rng = np.random.default_rng(k)
    eps = 0.6 * np.asarray(x)[:, None] + 0.4 * rng.normal(size=(2, 2, *SHAPE, 3))
    return np.concatenate([eps, rng.uniform(-1, 1, (2, 2, *SHAPE, 3))], axis=-1).astype(np.float32)


def guide_as_if_pipeline(prediction, scale):
    """Guides the noise as IFPipeline does; the variance is that of the positive prompt."""
    (negative, _), (positive, v) = (torch.split(to_torch(prediction[:, i]), 3, dim=1) for i in (0, 1))
    return torch.cat([negative + torch.from_numpy(scale)[:, None, None, None] * (positive - negative), v], dim=1)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("exact", [True, False])
def test_steps_equal_those_of_diffusers(name, exact):
    """Compares each step from the same x, and all steps in a row.

    diffusers multiplies 1,000 alphas in float32 and computes the smallest noise levels from 1 minus the product. If it
    is given the float64 product (`exact`), only the rounding of the steps remains.
    """
    scheduler = diffusers.DDPMScheduler.from_config(SCHEDULERS[name])
    scheduler.set_timesteps(STEPS)
    schedule = DDPMSchedule.from_dict(SCHEDULERS[name])
    np.testing.assert_allclose(schedule.alphas_cumprod(), scheduler.alphas_cumprod, rtol=0, atol=1e-6)
    if exact:
        scheduler.alphas_cumprod = torch.from_numpy(schedule.alphas_cumprod())
    table = ddpm_table(schedule, STEPS)
    np.testing.assert_array_equal(table.t[:STEPS], scheduler.timesteps)
    learned = schedule.variance_type == "learned_range"
    theirs = ours = normal((2, *SHAPE, 3))
    generator, again = (torch.Generator().manual_seed(1) for _ in range(2))
    for k, t in enumerate(scheduler.timesteps):
        prediction = fake_prediction(k, theirs)
        noise = np.moveaxis(torch.randn((2, 3, *SHAPE), generator=again).numpy(), 1, -1) if t > 0 else 0 * theirs
        row = jax.tree.map(lambda column, k=k: column[k], table)
        alone = advance(schedule, row, theirs, *guided_noise(prediction, SCALES), noise)
        ours = advance(schedule, row, ours, *guided_noise(fake_prediction(k, ours), SCALES), noise)
        output = guide_as_if_pipeline(prediction, SCALES)[:, : 6 if learned else 3]
        after = scheduler.step(output, t, to_torch(theirs), generator=generator).prev_sample
        theirs = np.moveaxis(after.numpy(), 1, -1)
        largest = max(1, np.abs(theirs).max())
        for found in (alone, ours):
            np.testing.assert_allclose(found, theirs, rtol=0, atol=(1e-5 if exact else 3e-5) * largest)
    assert 0.1 < theirs.std() < 5


def test_if_has_its_published_timesteps_and_ends_at_the_estimate():
    schedule = DDPMSchedule.from_dict(read("configs", "if_i.scheduler"))
    table = ddpm_table(schedule, STEPS)
    assert list(table.t[[0, 1, 28, 29]]) == [957, 924, 33, 0]
    assert table.low[29] == -np.inf and table.c0[29] == 1 and table.cx[29] == 0
    assert np.isnan(table.alpha[STEPS:]).all() and len(table.t) == 1000


def test_each_image_is_thresholded_alone():
    schedule = DDPMSchedule.from_dict(read("configs", "if_i.scheduler"))
    x = 3 * normal((2, *SHAPE, 3))
    x[1] /= 30  # within the bounds, so it does not change
    found = np.asarray(threshold(schedule, x))
    assert np.abs(found[0]).max() == 1 and (np.abs(found[0]) < 1).mean() < 0.5
    np.testing.assert_array_equal(found[1], x[1])


def test_add_noise_equals_diffusers():
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    schedule = DDPMSchedule.from_dict({**scheduler.config})
    x, noise, t = normal((2, *SHAPE, 3)), normal((2, *SHAPE, 3), 1), np.array([50, 999])
    expected = scheduler.add_noise(to_torch(x), to_torch(noise), torch.from_numpy(t)).movedim(1, -1)
    np.testing.assert_allclose(add_noise(schedule, x, t, noise), expected, rtol=0, atol=1e-5)


def test_step_noise_differs_from_step_to_step_and_depends_only_on_the_seed():
    draw = jax.jit(step_noise, static_argnums=2)
    seeds = np.array([3, 4, 3], np.uint32)
    one, other = draw(seeds, 0, (64, 64, 3)), draw(seeds, 1, (64, 64, 3))
    np.testing.assert_array_equal(one[0], one[2])
    np.testing.assert_array_equal(one[1:2], draw(seeds[1:2], 0, (64, 64, 3)))
    for a, b in ((one[0], one[1]), (one[0], other[0])):
        assert abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) < 0.03
    assert abs(np.std(one[0]) - 1) < 0.03


@pytest.mark.parametrize(
    "change, named",
    [
        ({"prediction_type": "v_prediction"}, "prediction_type"),
        ({"variance_type": "learned"}, "variance_type='learned' is not known here; choose one of learned_range, fixed"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"sample_max_value": 0.5}, "sample_max_value of 1 or more"),
        ({"dynamic_thresholding_ratio": 95}, "dynamic_thresholding_ratio <= 1"),
        ({"sigma_max": 3}, "unknown field 'sigma_max'"),
    ],
)
def test_an_unsupported_schedule_is_refused(change, named):
    with pytest.raises(UserError, match=named):
        DDPMSchedule.from_dict(read("configs", "if_i.scheduler") | change)


def test_a_step_count_beyond_training_is_refused():
    with pytest.raises(UserError, match="num_steps=1001: must be 1 to 1000"):
        ddpm_table(DDPMSchedule(), 1001)
