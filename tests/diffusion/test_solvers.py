"""The solvers against diffusers' schedulers."""

import diffusers
import jax
import numpy as np
import pytest

from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import SOLVERS, solver_table
from its_jax.errors import UserError
from its_jax.settings import schema
from tests.helpers.denoising import SCHEDULE, SD15, authors_loop, make_run, relative_error, sample


def schedulers():
    cosine = {"beta_schedule": "squaredcos_cap_v2"}
    linear = {"beta_schedule": "linear", "set_alpha_to_one": True}
    trailing = {"timestep_spacing": "trailing"}
    classes = {"ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler}
    classes["dpmpp_2m"] = diffusers.DPMSolverMultistepScheduler
    for solver, scheduler in classes.items():
        for num_steps, change in [(100, {}), (20, linear), (25, trailing), (20, cosine), (2, {}), (1, {})]:
            yield pytest.param(
                solver,
                scheduler,
                num_steps,
                change,
                id=f"{solver}-{num_steps}-{'-'.join(map(str, change.values()))}",
            )


@pytest.mark.parametrize("solver, scheduler_class, num_steps, change", list(schedulers()))
def test_solvers_give_the_results_of_diffusers(highest_precision, solver, scheduler_class, num_steps, change):
    # The file names no spacing. PNDMScheduler, which it is for, then uses "leading", but Euler's class does not.
    config = SD15 | {"timestep_spacing": "leading"} | change
    schedule = NoiseSchedule.from_dict(config)
    run = make_run(num_steps=num_steps, solver=solver, starts=(0, 0), schedule=schedule, guidance=(5, 3))
    terms, table, _, state, _ = run
    scheduler = scheduler_class.from_config(config)
    if solver == "dpmpp_2m" and schedule.timestep_spacing == "leading":
        # Its own leading timesteps begin lower, at 901 for 100 steps, as if one more step were taken.
        scheduler.set_timesteps(timesteps=table.t[:num_steps].tolist())
    else:
        scheduler.set_timesteps(num_steps)
    np.testing.assert_array_equal(table.t[:num_steps], scheduler.timesteps)
    noise = np.array(state.x)
    if solver == "euler" and schedule.timestep_spacing == "trailing":
        # There diffusers starts from noise of scale sigma_max, short of unit variance; we start all solvers alike.
        noise *= float((scheduler.sigmas[0] ** 2 + 1) ** 0.5 / scheduler.init_noise_sigma)
    assert relative_error(sample(*run).x, authors_loop(scheduler, terms, noise)) < 1e-4


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_are_exact_when_given_the_true_noise(solver):
    """alpha x0 + sigma eps stays on its path."""
    table = jax.tree.map(np.float64, solver_table(SCHEDULE, 30, solver))
    x0, eps = 0.7, -1.3
    for k in range(29):
        x = table.alpha[k] * x0 + table.sigma[k] * eps
        after = table.cx[k] * x + table.ce[k] * eps + table.cp[k] * x0
        assert after == pytest.approx(table.alpha[k + 1] * x0 + table.sigma[k + 1] * eps, abs=1e-5)


def test_second_order_converges_faster():
    schedule = NoiseSchedule.from_dict(SD15 | {"timestep_spacing": "trailing"})  # always begins at timestep 999

    def run(solver, num_steps):
        return sample(*make_run(num_steps=num_steps, solver=solver, starts=0, guidance=2, schedule=schedule)).x

    exact = run("euler", 1000)
    assert relative_error(run("dpmpp_2m", 25), exact) < relative_error(run("euler", 25), exact) / 3


def test_rows_beyond_the_last_step_hold_nan():
    terms, table, active, state, last = make_run(num_steps=5)
    assert all(np.isnan(column[5:]).all() for column in table[1:])
    assert sample(terms, table, active, state, last + 1).failed_at.tolist() == [5, 5]


@pytest.mark.parametrize("num_steps", [0, -3, 1001])
def test_impossible_step_counts_are_refused(num_steps):
    with pytest.raises(UserError, match=rf"num_steps={num_steps}: must be 1 to 1000"):
        solver_table(SCHEDULE, num_steps, "ddim")


def test_an_unknown_solver_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="solver='plms' is not known here; choose one of ddim, euler, dpmpp_2m"):
        solver_table(SCHEDULE, 10, "plms")


def test_the_settings_list_every_solver():
    assert schema.SOLVERS == tuple(SOLVERS)
