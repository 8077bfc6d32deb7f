"""Which share of a sweep this process makes: as its flags say, or as the scheduler does that started it."""

import os
from collections.abc import Mapping

import jax

from its_jax.errors import UserError

# What each scheduler sets: this process's number, and how many there are.
_SCHEDULERS = {
    "a Slurm array": ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    "an indexed Kubernetes job": ("JOB_COMPLETION_INDEX", None),  # it does not tell how many
    "SkyPilot": ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
}


def from_flags_or_scheduler(
    index: int | None = None, count: int | None = None, environment: Mapping[str, str] = os.environ
) -> tuple[int, int] | None:
    """Index and count of this process's share; None if neither flags nor a scheduler tell.

    Args:
      index, count: of the flags; what is None is asked of the scheduler.

    Raises:
      UserError: one of them is not known, or they do not fit each other.
    """
    scheduler = next((name for name, (key, _) in _SCHEDULERS.items() if key in environment), None)
    if index is None and count is None and scheduler is None:
        return None
    told = _from_scheduler(scheduler, environment) if scheduler else (None, None)
    index, count = (told[0] if index is None else index), (told[1] if count is None else count)
    if index is None or count is None:
        by = f" ({scheduler} does not tell it)" if scheduler else ""
        raise UserError(f"--{'shard_index' if index is None else 'num_shards'} is missing{by}: give both")
    if not 0 <= index < count:
        raise UserError(f"shard_index={index} of num_shards={count}: must be 0 to {max(0, count - 1)}")
    return index, count


def _from_scheduler(scheduler, environment):
    index_key, count_key = _SCHEDULERS[scheduler]
    try:
        index = int(environment[index_key])
        count = int(environment[count_key]) if count_key else None
        if scheduler == "a Slurm array":
            # --array=8-15:2 counts 8, 10, ...
            first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
            index = (index - first) // int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
    except (KeyError, ValueError) as error:
        raise UserError(f"{scheduler}: {index_key} or {count_key} is not as expected ({error})") from error
    return index, count


def jax_process_shard() -> tuple[int, int]:
    """Index and count of this process among those that run JAX together on several hosts."""
    return jax.process_index(), jax.process_count()
