"""Chips that need not be there, to compile for, and what the programs say of the talk between them."""

import re

from jax.experimental import topologies

from its_jax.errors import UserError


def described(name: str, **more):
    """TPU chips by their topology's name, such as `v5e:2x2`. `UserError`: no compiler is there, or it knows no such."""
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **more)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name}: nothing can be compiled for it here; is libtpu installed? ({reason})") from error


_COLLECTIVE = re.compile(
    r"(all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(?:-start)?\("
)


def collectives(text: str) -> list[re.Match]:
    """Where devices exchange data in the text of a compiled program, in its order; group 1 of each is its name."""
    return list(_COLLECTIVE.finditer(text))
