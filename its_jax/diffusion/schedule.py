"""The noise schedule that a diffusion model was trained with, as its `scheduler_config.json` states it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from its_jax.config_fields import read_fields
from its_jax.errors import UserError, check_choice

# These fields of diffusers' schedulers would change the schedule, unless they have these values.
_OFF = """
    clip_sample thresholding rescale_betas_zero_snr use_karras_sigmas use_exponential_sigmas use_beta_sigmas
    use_lu_lambdas use_flow_sigmas use_dynamic_shifting
"""
_FIXED: dict[str, tuple[Any, ...]] = {name: (False, None) for name in _OFF.split()}
_FIXED |= {"prediction_type": ("epsilon",), "trained_betas": (None,), "variance_type": (None, "fixed_small")}
# These fields have no effect under those values, or concern the solver, which the caller chooses here.
_IGNORED = """
    clip_sample_range dynamic_thresholding_ratio sample_max_value skip_prk_steps interpolation_type
    timestep_type sigma_min sigma_max final_sigmas_type flow_shift solver_order solver_type algorithm_type
    lower_order_final euler_at_final lambda_min_clipped time_shift_type
"""


@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """The noise levels that a model was trained with, under the field names of its `scheduler_config.json`.

    Fields without a default must be in the file. The defaults are those of diffusers' DDIMScheduler.

    Attributes:
      set_alpha_to_one: whether DDIM ends at the clean latent rather than at timestep 0.
      steps_offset: added to the timesteps of `leading` spacing.
      timestep_spacing: `leading` or `trailing`, see `timesteps`.
    """

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    timestep_spacing: str = "leading"

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "NoiseSchedule":
        """Reads the parsed file of a diffusers scheduler.

        Raises:
          UserError: a field is missing or not supported.
        """
        return read_fields(cls, raw, fixed=_FIXED, ignored=_IGNORED.split())

    def __post_init__(self) -> None:
        check_choice("beta_schedule", self.beta_schedule, ("linear", "scaled_linear", "squaredcos_cap_v2"))
        check_choice("timestep_spacing", self.timestep_spacing, ("leading", "trailing"))
        if self.num_train_timesteps < 1 or not 0 < self.beta_start <= self.beta_end < 1:
            raise UserError(
                f"the noise schedule needs num_train_timesteps above 0 and 0 < beta_start <= beta_end < 1, not "
                f"{self.num_train_timesteps}, {self.beta_start} and {self.beta_end}"
            )

    def alphas_cumprod(self) -> np.ndarray:
        """Returns alpha_t^2 for t = 0, 1, ..., float64 `[num_train_timesteps]`."""
        n = self.num_train_timesteps
        if self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, n)
        elif self.beta_schedule == "scaled_linear":  # latent diffusion, arXiv 2112.10752
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, n) ** 2
        else:  # cosine schedule with its offset 0.008 and cap 0.999, arXiv 2102.09672 section 3.2
            signal = np.cos((np.linspace(0, 1, n + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
        return np.cumprod(1 - betas)

    def timesteps(self, num_steps: int) -> np.ndarray:
        """Returns the timestep of each step, falling, int64 `[num_steps]` (arXiv 2305.08891, table 2).

        100 steps of SD 1.5 (`leading`) begin at 991. `trailing` timesteps always begin at the last one. `steps_offset`
        is reduced where it would exceed the last timestep, as for 1000 steps out of 1000.

        Raises:
          UserError: a step count below 1 or above the number of training steps.
        """
        n = self.num_train_timesteps
        if not 1 <= num_steps <= n:
            raise UserError(f"num_steps={num_steps}: must be 1 to {n}, the number of training steps")
        k = np.arange(num_steps)
        if self.timestep_spacing == "trailing":
            return np.round(n - k * (n / num_steps)).astype(np.int64) - 1
        t = k[::-1] * (n // num_steps)
        return t + min(self.steps_offset, n - 1 - t[0])
