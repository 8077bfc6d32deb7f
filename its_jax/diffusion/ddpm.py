"""DDPM with a learnt variance, as DeepFloyd IF is sampled: a table of rows, and one step (Ho et al. 2020, eq. 7).

    x0 = bounded((x - sigma eps) / alpha)
    x' = c0 x0 + cx x + exp(log_variance / 2) noise
    log_variance = low + (v + 1) / 2 span

`denoise.py` has the notation. The model gives eps and, in as many channels more, v, which says where between the
variance of a process without data and that of one with a single datum the step lies (Nichol and Dhariwal 2021,
arXiv 2102.09672, eq. 15). Rows are made in float64, a step is float32.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from its_jax.config_fields import read_fields
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.errors import UserError, check_choice

_FIXED = {"prediction_type": ("epsilon",), "trained_betas": (None,), "rescale_betas_zero_snr": (False,)}
_IGNORED = ("lambda_min_clipped",)  # of another scheduler
_LEAST_VARIANCE = 1e-20  # under its logarithm, as diffusers has it


@dataclasses.dataclass(frozen=True)
class DDPMSchedule(NoiseSchedule):
    """The noise that a pixel model was trained under, and how it is sampled; defaults are those of DDPMScheduler.

    Attributes:
      variance_type: `learned_range`, or `fixed_small`, which takes no notice of v.
      thresholding: see `bounded`; where it is on, `clip_sample` has no effect.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    variance_type: str = "fixed_small"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    clip_sample: bool = True
    clip_sample_range: float = 1.0

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "DDPMSchedule":
        """Reads a parsed file of diffusers' DDPMScheduler; UserError names what is not supported."""
        return read_fields(cls, raw, fixed=_FIXED, ignored=_IGNORED)

    def __post_init__(self):
        super().__post_init__()
        check_choice("variance_type", self.variance_type, ("learned_range", "fixed_small"))
        if not (0 < self.dynamic_thresholding_ratio <= 1 and self.sample_max_value >= 1 and self.clip_sample_range > 0):
            raise UserError(
                "the bounds of a picture need 0 < dynamic_thresholding_ratio <= 1, sample_max_value from 1 on and "
                f"clip_sample_range above 0, not {self.dynamic_thresholding_ratio}, {self.sample_max_value} and "
                f"{self.clip_sample_range}"
            )


class DDPMTable(NamedTuple):
    """The steps as a table, see above."""

    t: np.ndarray  # int32 [steps], the others float32 [steps]
    alpha: np.ndarray
    sigma: np.ndarray
    c0: np.ndarray
    cx: np.ndarray
    low: np.ndarray  # -inf where no noise is added: at timestep 0
    span: np.ndarray  # 0 where the variance is fixed


def ddpm_table(schedule: DDPMSchedule, num_steps: int) -> DDPMTable:
    """The table of the schedule's timesteps; rows beyond `num_steps` hold NaN, as in `denoise.solver_rows`.

    Raises:
      UserError: a step count below 1 or above the training steps.
    """
    t, signal = schedule.timesteps(num_steps), schedule.alphas_cumprod()
    now, then = signal[t], np.append(signal[t[1:]], 1.0)
    beta = 1 - now / then  # of all the training steps that one step stands for
    least = np.maximum((1 - then) / (1 - now) * beta, _LEAST_VARIANCE)
    low = np.where(t > 0, np.log(least), -np.inf)
    span = np.log(beta / least) if schedule.variance_type == "learned_range" else np.zeros(num_steps)
    c0, cx = np.sqrt(then) * beta / (1 - now), np.sqrt(now / then) * (1 - then) / (1 - now)
    columns = np.stack([np.sqrt(now), np.sqrt(1 - now), c0, cx, low, np.where(t > 0, span, 0)])
    unused = (0, schedule.num_train_timesteps - num_steps)
    columns = np.pad(columns, ((0, 0), unused), constant_values=np.nan).astype(np.float32)
    return DDPMTable(np.pad(t, unused).astype(np.int32), *columns)


def guided_noise(prediction: Array, guidance_scale: Array) -> tuple[Array, Array]:
    """Noise and variance from a model's predictions for negative and positive prompt.

    Args:
      prediction: `[b 2 h w 2c]`, or `[b 1 h w 2c]` of the positive prompt alone. guidance_scale: `[b]`.

    Returns:
      eps, negative + s (positive - negative), and v, that of the positive prompt: float32 `[b h w c]` each.
    """
    eps, v = jnp.split(prediction.astype(jnp.float32), 2, axis=-1)
    negative, positive = eps[:, 0], eps[:, -1]
    return negative + guidance_scale[:, None, None, None] * (positive - negative), v[:, -1]


def step(schedule: DDPMSchedule, row: DDPMTable, x: Array, eps: Array, v: Array, noise: Array) -> Array:
    """One step.

    Args:
      schedule: static. row: of `ddpm_rows`, `[]` each.
      x, eps, v, noise: `[b h w c]`; the noise is standard normal, new for each step.

    Returns:
      x at the next timestep, and after the last one the picture, about [-1, 1].
    """
    x0 = threshold(schedule, (x - row.sigma * eps) / row.alpha)
    log_variance = row.low + (v + 1) / 2 * row.span
    return row.c0 * x0 + row.cx * x + jnp.exp(log_variance / 2) * noise


def threshold(schedule: DDPMSchedule, x0: Array) -> Array:
    """The estimated picture `[b h w c]` brought back to [-1, 1], where the schedule says so.

    By dynamic thresholding: a picture of which more than the ratio lies beyond [-1, 1] is divided by the bound that
    holds the ratio of it, at most `sample_max_value` (Saharia et al. 2022, arXiv 2205.11487, section 2.3).
    """
    if schedule.thresholding:
        bound = jnp.quantile(jnp.abs(x0), schedule.dynamic_thresholding_ratio, axis=(1, 2, 3), keepdims=True)
        bound = jnp.clip(bound, 1, schedule.sample_max_value)
        return jnp.clip(x0, -bound, bound) / bound
    if schedule.clip_sample:
        return jnp.clip(x0, -schedule.clip_sample_range, schedule.clip_sample_range)
    return x0


def add_noise(schedule: DDPMSchedule, x0: Array, t: Array, noise: Array) -> Array:
    """alpha_t x0 + sigma_t noise, `[b h w c]`, at timesteps `t` `[b]`: as stage II is given the small picture."""
    signal = jnp.asarray(schedule.alphas_cumprod().astype(np.float32))[t][:, None, None, None]
    return jnp.sqrt(signal) * x0 + jnp.sqrt(1 - signal) * noise


def step_noise(seeds: Array, k: Array, shape: tuple[int, int, int]) -> Array:
    """The noise of step `k`, standard normal float32 `[b *shape]`; a sample's depends on its own uint32 seed only."""

    def of_seed(seed):
        key = jax.random.key(seed, impl="threefry2x32")
        return jax.random.normal(jax.random.fold_in(key, k), shape)

    return jax.vmap(of_seed)(seeds)
