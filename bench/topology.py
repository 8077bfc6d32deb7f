"""Chips that need not be there, to compile for."""

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
