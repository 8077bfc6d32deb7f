"""ODE solvers as tables of coefficients, one row per step: DDIM, Euler and DPM-Solver++(2M).

    x0 = (x - sigma eps) / alpha
    x' = cx x + ce eps + cp x0_prev

`denoise.py` has the notation; x' is x at the next timestep, x0_prev is x0 of the previous step.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.errors import check_choice


class SolverTable(NamedTuple):
    """The coefficients of the steps, see above; or of one step, if each entry has no axis."""

    t: np.ndarray  # int32 [steps], the others float32 [steps]
    alpha: np.ndarray
    sigma: np.ndarray
    cx: np.ndarray
    ce: np.ndarray
    cp: np.ndarray


def _first_order(alpha, sigma):
    """Computes the coefficients of x' = alpha' x0 + sigma' eps."""
    cx = alpha[1:] / alpha[:-1]
    return cx, sigma[1:] - cx * sigma[:-1], np.zeros_like(cx)


def _dpmpp_2m(alpha, sigma):
    """Computes DPM-Solver++(2M), arXiv 2211.01095, algorithm 2; the first and the last step are of first order."""
    with np.errstate(divide="ignore"):
        step = np.diff(np.log(alpha / sigma))  # h of the paper; infinite where the last sigma is 0
    ratio = np.zeros_like(step)  # 1 / (2 r) of the paper
    ratio[1:-1] = step[1:-1] / step[:-2] / 2
    gain = alpha[1:] - sigma[1:] * alpha[:-1] / sigma[:-1]  # alpha' (1 - exp(-h))
    c0 = gain * (1 + ratio)
    return sigma[1:] / sigma[:-1] + c0 / alpha[:-1], -c0 * sigma[:-1] / alpha[:-1], -gain * ratio


# A solver maps alpha and sigma at the timesteps and at the end, float64 [n + 1] each, to cx, ce, cp, [n] each.
# Euler's method on the ODE of x / alpha, written for x, is DDIM's formula (arXiv 2010.02502, section 4.3). The two
# differ in where they end. All solvers start from x = noise, although diffusers' `init_noise_sigma` differs between
# them, because that is the scale of x / alpha.
SOLVERS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]] = {
    "ddim": _first_order,
    "euler": _first_order,
    "dpmpp_2m": _dpmpp_2m,
}


def solver_table(schedule: NoiseSchedule, num_steps: int, solver: str, first: int = 0) -> SolverTable:
    """Computes the table of a solver, a key of `SOLVERS`, on the timesteps of the schedule.

    Rows before `first`, where denoising begins, and beyond `num_steps` hold NaN, so that running one step too many
    cannot pass for a result. Euler and DPM-Solver++ end at sigma 0, DDIM where `set_alpha_to_one` says. Coefficients
    are computed in float64.

    Raises:
      UserError: an unknown solver, or a step count below 1 or above the number of training steps.
    """
    check_choice("solver", solver, SOLVERS)
    t, signal = schedule.timesteps(num_steps), schedule.alphas_cumprod()
    end = signal[0] if solver == "ddim" and not schedule.set_alpha_to_one else 1.0
    signal = np.append(signal[t[first:]], end)
    alpha, sigma = np.sqrt(signal), np.sqrt(1 - signal)
    columns = np.stack([alpha[:-1], sigma[:-1], *SOLVERS[solver](alpha, sigma)])
    unused = schedule.num_train_timesteps - num_steps
    columns = np.pad(columns, ((0, 0), (first, unused)), constant_values=np.nan).astype(np.float32)
    return SolverTable(np.pad(t, (0, unused)).astype(np.int32), *columns)
