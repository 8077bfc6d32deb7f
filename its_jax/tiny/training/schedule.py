"""The schedule of each training stage: its steps, batch size and learning rates."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import optax
from jax import Array


@dataclasses.dataclass(frozen=True)
class Stage:
    """A schedule: in each cycle the learning rate warms up and then follows a cosine to zero.

    Attributes:
      cycles: number of steps and highest learning rate of each cycle.
      batch: items per step.
      ema: decay of the average of the weights.
      shortened: (step, steps): up to `step`, the first cycle has the learning rate of a cycle of `steps` steps.
    """

    cycles: Sequence[tuple[int, float]]
    batch: int
    ema: float = 0.999
    shortened: tuple[int, int] | None = None

    @property
    def steps(self) -> int:
        """Returns the number of steps of all cycles."""
        return sum(steps for steps, _ in self.cycles)

    def progress(self, step: int) -> float:
        """Returns the share of its cycle that lies before `step`, in [0, 1)."""
        for steps, _ in self.cycles:
            if step < steps:
                return step / steps
            step -= steps
        raise ValueError("beyond the last step")

    def learning_rate(self) -> Callable[[int | Array], Array]:
        """Returns a function from a step to its learning rate."""
        rates = jnp.concatenate([_cosine(steps, peak) for steps, peak in self.cycles])
        if self.shortened:
            (_, peak), (until, planned) = self.cycles[0], self.shortened
            rates = jnp.concatenate([_cosine(planned, peak)[:until], rates[until:]])
        return lambda step: rates[step]


def _cosine(steps: int, peak: float) -> Array:
    """Returns learning rates `[steps]` that warm up and then follow a cosine to zero."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, min(100, steps // 10), steps)(jnp.arange(steps))


# The schedules of the shipped weights, whose first cycles were shortened during training.
STAGES = {
    "vae": Stage([(1500, 1.5e-3)], batch=8, ema=0.995, shortened=(1195, 2000)),
    "image": Stage([(3400, 8e-4), (5000, 8e-4)], batch=8, shortened=(800, 4200)),
    "audio": Stage([(2400, 8e-4), (1600, 8e-4)], batch=8, shortened=(957, 2900)),
    "vocoder": Stage([(4000, 1.5e-4), (2500, 1e-4)], batch=8, ema=0.998),
    "judge": Stage([(700, 2e-3)], batch=24, ema=0.99),
    "clip": Stage([(1200, 1e-3)], batch=48, ema=0.99),
    "clap": Stage([(700, 1e-3)], batch=36, ema=0.99),
    "color": Stage([(4000, 8e-4)], batch=8),
}
