"""DDPM with a learned variance, the sampler of DeepFloyd IF, as a table and one step (Ho et al. 2020, equation 7).

    x0 = threshold((x - sigma eps) / alpha)
    x' = c0 x0 + cx x + exp(log_variance / 2) noise
    log_variance = low + (v + 1) / 2 span

`denoise.py` has the notation. The model predicts eps and, in as many further channels, v. A v of -1 gives the
variance of a process whose data is a single point, a v of 1 that of a process whose data is white noise (Nichol and
Dhariwal 2021, arXiv 2102.09672, equation 15). Tables are computed in float64, steps in float32.
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

_FIXED: dict[str, tuple[Any, ...]] = {"prediction_type": ("epsilon",), "trained_betas": (None,)}
_FIXED |= {"rescale_betas_zero_snr": (False,)}
_IGNORED = ("lambda_min_clipped",)  # a field of another scheduler
_MIN_VARIANCE = 1e-20  # keeps the logarithm finite, as in diffusers


@dataclasses.dataclass(frozen=True)
class DDPMSchedule(NoiseSchedule):
    """The noise levels that a pixel model was trained with, and how it is sampled. The defaults are DDPMScheduler's.

    Attributes:
      variance_type: `learned_range`, or `fixed_small`, which ignores v.
      thresholding: see `threshold`; where it is on, `clip_sample` has no effect.
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
        """Reads the parsed file of diffusers' DDPMScheduler.

        Raises:
          UserError: a field is not supported.
        """
        return read_fields(cls, raw, fixed=_FIXED, ignored=_IGNORED)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("variance_type", self.variance_type, ("learned_range", "fixed_small"))
        if not (0 < self.dynamic_thresholding_ratio <= 1 and self.sample_max_value >= 1 and self.clip_sample_range > 0):
            raise UserError(
                "the bounds of an image need 0 < dynamic_thresholding_ratio <= 1, sample_max_value of 1 or more and "
                f"clip_sample_range above 0, not {self.dynamic_thresholding_ratio}, {self.sample_max_value} and "
                f"{self.clip_sample_range}"
            )


class DDPMTable(NamedTuple):
    """The coefficients of the steps, see above; or of one step, if each entry has no axis."""

    t: np.ndarray  # int32 [steps], the others float32 [steps]
    alpha: np.ndarray
    sigma: np.ndarray
    c0: np.ndarray
    cx: np.ndarray
    low: np.ndarray  # -inf at timestep 0, where no noise is added
    span: np.ndarray  # 0 if the variance is fixed


def ddpm_table(schedule: DDPMSchedule, num_steps: int) -> DDPMTable:
    """Computes the table for the schedule's timesteps; rows beyond `num_steps` hold NaN, as in `solvers.solver_table`.

    Raises:
      UserError: a step count below 1 or above the number of training steps.
    """
    t, signal = schedule.timesteps(num_steps), schedule.alphas_cumprod()
    now, after = signal[t], np.append(signal[t[1:]], 1.0)
    beta = 1 - now / after  # of all the training steps that one step stands for
    variance = np.maximum((1 - after) / (1 - now) * beta, _MIN_VARIANCE)
    low = np.where(t > 0, np.log(variance), -np.inf)
    span = np.log(beta / variance) if schedule.variance_type == "learned_range" else np.zeros(num_steps)
    c0, cx = np.sqrt(after) * beta / (1 - now), np.sqrt(now / after) * (1 - after) / (1 - now)
    columns = np.stack([np.sqrt(now), np.sqrt(1 - now), c0, cx, low, np.where(t > 0, span, 0)])
    unused = (0, schedule.num_train_timesteps - num_steps)
    columns = np.pad(columns, ((0, 0), unused), constant_values=np.nan).astype(np.float32)
    return DDPMTable(np.pad(t, unused).astype(np.int32), *columns)


def guided_noise(prediction: Array, guidance_scale: Array) -> tuple[Array, Array]:
    """Computes noise and variance from a model's predictions for the negative and the positive prompt.

    Args:
      prediction: `[b 2 h w 2c]`, or `[b 1 h w 2c]` for the positive prompt only.
      guidance_scale: `[b]`.

    Returns:
      eps, which is negative + s (positive - negative), and v of the positive prompt: float32 `[b h w c]` each.
    """
    eps, v = jnp.split(prediction.astype(jnp.float32), 2, axis=-1)
    negative, positive = eps[:, 0], eps[:, -1]
    return negative + guidance_scale[:, None, None, None] * (positive - negative), v[:, -1]


def step(schedule: DDPMSchedule, row: DDPMTable, x: Array, eps: Array, v: Array, noise: Array) -> Array:
    """Makes one step.

    Args:
      schedule: a static argument under `jax.jit`.
      row: the row of `ddpm_table` for this step, `[]` each.
      x, eps, v, noise: `[b h w c]`; the noise is standard normal, drawn for each step.

    Returns:
      x at the next timestep; after the last step this is the image, about [-1, 1].
    """
    x0 = threshold(schedule, (x - row.sigma * eps) / row.alpha)
    log_variance = row.low + (v + 1) / 2 * row.span
    return row.c0 * x0 + row.cx * x + jnp.exp(log_variance / 2) * noise


def threshold(schedule: DDPMSchedule, x0: Array) -> Array:
    """Bounds the estimated image `[b h w c]` to [-1, 1], or to `clip_sample_range`, as the schedule says.

    Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3) divides an image by the quantile
    `dynamic_thresholding_ratio` of its absolute values if that is above 1, but by `sample_max_value` at most.
    """
    if schedule.thresholding:
        bound = jnp.quantile(jnp.abs(x0), schedule.dynamic_thresholding_ratio, axis=(1, 2, 3), keepdims=True)
        bound = jnp.clip(bound, 1, schedule.sample_max_value)
        return jnp.clip(x0, -bound, bound) / bound
    if schedule.clip_sample:
        return jnp.clip(x0, -schedule.clip_sample_range, schedule.clip_sample_range)
    return x0


def add_noise(schedule: DDPMSchedule, x0: Array, t: Array, noise: Array) -> Array:
    """Computes alpha_t x0 + sigma_t noise, `[b h w c]`, at timesteps `t` `[b]`; stage II takes an image noised so."""
    signal = jnp.asarray(schedule.alphas_cumprod().astype(np.float32))[t][:, None, None, None]
    return jnp.sqrt(signal) * x0 + jnp.sqrt(1 - signal) * noise


def step_noise(seeds: Array, k: Array | int, shape: tuple[int, int, int]) -> Array:
    """Draws standard normal noise for step `k`, float32 `[b *shape]`; a sample depends only on its uint32 seed."""

    def draw(seed):
        key = jax.random.key(seed, impl="threefry2x32")
        return jax.random.normal(jax.random.fold_in(key, k), shape)

    return jax.vmap(draw)(seeds)
