"""Chips that need not be there, to compile for."""

import jax
from jax.experimental import topologies

from its_jax.errors import UserError

# What devices exchange data by, as compiled programs name it.
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter"


def described(name: str, **more):
    """TPU chips by their topology's name, such as `v5e:2x2`. `UserError`: no compiler is there, or it knows no such."""
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **more)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name}: nothing can be compiled for it here; is libtpu installed? ({reason})") from error


def add_effort(parser) -> None:
    """The flag that `set_effort` takes."""
    help_ = "of the compiler, -1 (least, a sixth of the time) to 1; temporaries of a UNet differ by 3 %%"
    parser.add_argument("--effort", type=float, default=-1.0, help=help_)


def set_effort(effort: float) -> None:
    """How much time the compiler takes to make programs quick."""
    jax.config.update("jax_exec_time_optimization_effort", effort)
