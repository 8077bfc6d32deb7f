"""Batches: the same ones at every run, whatever has been made, and shared out evenly."""

import collections

import pytest

from configs import default
from its_jax.generate import batches as generate_batches
from its_jax.sweep import grid


@pytest.fixture
def settings():
    return default.get_config().to_dict() | {"num_samples": 1}


def groups_of(settings, **axes):
    return generate_batches.program_groups(grid.read_grid(settings, axes))


def test_only_what_changes_programs_makes_groups(settings):
    traced = {"seed": (0, 1), "num_steps": (10, 20), "solver": ("ddim", "euler"), "noise": ("jax", "torch")}
    traced["image"] = {"prompt": ("a", "b"), "weight": (0.4, 0.6), "guidance_scale": (3.0, 4.0)}
    (group,) = groups_of(settings, **traced)
    assert len(group.requested) == 2**7
    others = {"width": (256, 512), "dtype": ("float32", "bfloat16"), "image": {"guidance_scale": (1.0, 4.0)}}
    assert len(groups_of(settings, **others)) == 2**3


def test_a_batch_has_one_table_of_steps(settings, tmp_path):
    (group,) = groups_of(settings, num_steps=(10, 20), seed="0..4")
    batches = generate_batches.plan_batches(tmp_path, group, 4)
    assert [len(batch) for batch in batches] == [4, 1, 4, 1]
    for batch in batches:
        assert len({group.requested[name].num_steps for name in batch}) == 1
    assert sorted(name for batch in batches for name in batch) == sorted(group.requested)


def test_a_grid_that_grows_keeps_its_batches(settings, tmp_path):
    (group,) = groups_of(settings, seed="0..5")
    before = generate_batches.plan_batches(tmp_path, group, 4)
    (more,) = groups_of(settings, seed="0..9", image={"prompt": ("a", settings["image"]["prompt"])})
    after = generate_batches.plan_batches(tmp_path, more, 4)
    assert after[:2] == before and more.key == group.key
    assert sorted(name for batch in after for name in batch) == sorted(more.requested)
    assert generate_batches.plan_batches(tmp_path, group, 4) == after  # that of the first grid, again
    assert generate_batches.recorded_batch_size(tmp_path, group) == 4


def test_another_size_begins_anew(settings, tmp_path):
    (group,) = groups_of(settings, seed="0..5")
    generate_batches.plan_batches(tmp_path, group, 4)
    assert [len(batch) for batch in generate_batches.plan_batches(tmp_path, group, 3)] == [3, 3]
    assert generate_batches.recorded_batch_size(tmp_path, group) == 3


def test_counting_writes_nothing(settings, tmp_path):
    (group,) = groups_of(settings, seed="0..5")
    assert generate_batches.count_batches(tmp_path, group, 4, ()) == 2 and not list(tmp_path.iterdir())
    done = set(generate_batches.plan_batches(tmp_path, group, 4)[0])
    assert generate_batches.count_batches(tmp_path, group, 4, done) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_even_and_miss_nothing(settings, tmp_path, count):
    (group,) = groups_of(settings, seed="0..99")
    batches = generate_batches.plan_batches(tmp_path, group, 4)
    shares = [generate_batches.shard(group, batches, i, count) for i in range(count)]
    assert sorted(batch for share in shares for batch in share) == sorted(batches)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_small_groups_fall_to_different_shares(settings, tmp_path):
    groups = groups_of(settings, width=tuple(range(128, 128 + 40 * 8, 8)))
    owners = collections.Counter()
    for group in groups:
        batches = generate_batches.plan_batches(tmp_path, group, 4)
        owners.update(i for i in range(4) if generate_batches.shard(group, batches, i, 4))
    assert sum(owners.values()) == 40 and max(owners.values()) <= 20


def test_what_a_kill_left_is_swept_up(settings, tmp_path):
    (group,) = groups_of(settings, seed="0..5")
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / ".0123.tmp").write_text("{")
    generate_batches.plan_batches(tmp_path, group, 4)
    assert [path.name for path in (tmp_path / "plan").iterdir()] == [f"{group.key}.json"]


def test_the_key_of_a_program_is_stable(settings):
    """It names the file that records the batches of a sweep: by another key a resumed sweep forms other batches."""
    (group,) = generate_batches.program_groups(grid.read_grid(settings, {"seed": "0..1"}))
    assert group.key == "a4dc736fa5"
