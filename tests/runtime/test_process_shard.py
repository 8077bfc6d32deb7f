"""The shard of a sweep that a process generates."""

import pytest

from its_jax.errors import UserError
from its_jax.runtime import process_shard


@pytest.mark.parametrize(
    "index, count, environment, expected",
    [
        (None, None, {}, None),
        (1, 3, {}, (1, 3)),
        (None, None, {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4)),
        (
            None,
            None,
            {
                "SLURM_ARRAY_TASK_ID": "12",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "8",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            (2, 4),
        ),
        (None, 5, {"JOB_COMPLETION_INDEX": "4"}, (4, 5)),
        (None, None, {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "2"}, (0, 2)),
        (2, 3, {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "2"}, (2, 3)),
    ],
)
def test_flags_take_precedence_over_the_scheduler(index, count, environment, expected):
    assert process_shard.from_flags_or_scheduler(index, count, environment) == expected


@pytest.mark.parametrize(
    "index, count, environment, words",
    [
        (1, None, {}, "--num_shards is missing: give both"),
        (None, 3, {}, "--shard_index is missing: give both"),
        (None, None, {"JOB_COMPLETION_INDEX": "4"}, "--num_shards is missing (an indexed Kubernetes job does not set"),
        (3, 3, {}, "shard_index=3 of num_shards=3: must be 0 to 2"),
        (0, 0, {}, "shard_index=0 of num_shards=0"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "2"}, "a Slurm array: SLURM_ARRAY_TASK_ID or SLURM_ARRAY_TASK_COUNT"),
        (None, None, {"SKYPILOT_NODE_RANK": "x", "SKYPILOT_NUM_NODES": "2"}, "SkyPilot"),
    ],
)
def test_missing_or_contradicting_values_are_named_in_the_error(index, count, environment, words):
    with pytest.raises(UserError) as caught:
        process_shard.from_flags_or_scheduler(index, count, environment)
    assert words in str(caught.value)
