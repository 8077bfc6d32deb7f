"""The shard of a sweep that this process generates, as its flags or its scheduler say."""

import os
from collections.abc import Mapping

from its_jax.errors import UserError

# The variables that each scheduler sets: the index of this process, and the number of processes.
_SCHEDULERS = {
    "a Slurm array": ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    "an indexed Kubernetes job": ("JOB_COMPLETION_INDEX", None),  # It does not set the number.
    "SkyPilot": ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
}


def from_flags_or_scheduler(
    index: int | None = None, count: int | None = None, environment: Mapping[str, str] = os.environ
) -> tuple[int, int] | None:
    """Returns index and count of this process's shard, or None if neither flags nor a scheduler set them.

    Args:
      index, count: from the flags. The scheduler's values replace those that are None.

    Raises:
      UserError: one of them is not known, or they contradict each other.
    """
    scheduler = next((name for name, (key, _) in _SCHEDULERS.items() if key in environment), None)
    if index is None and count is None and scheduler is None:
        return None
    scheduled = _from_scheduler(scheduler, environment) if scheduler else (None, None)
    index, count = (scheduled[0] if index is None else index), (scheduled[1] if count is None else count)
    if index is None or count is None:
        reason = f" ({scheduler} does not set it)" if scheduler else ""
        raise UserError(f"--{'shard_index' if index is None else 'num_shards'} is missing{reason}: give both")
    if not 0 <= index < count:
        raise UserError(f"shard_index={index} of num_shards={count}: must be 0 to {max(0, count - 1)}")
    return index, count


def _from_scheduler(scheduler: str, environment: Mapping[str, str]) -> tuple[int, int | None]:
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
    """Returns index and count of this process among those that run JAX together on several hosts."""
    import jax  # Commands import this module before they parse their flags.

    return jax.process_index(), jax.process_count()
