"""Settings in records."""

import json

import pytest

from its_jax.errors import UserError
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import expand
from its_jax.settings.records import RECORD, from_record, unfinished
from tests.helpers.configs import default_settings, record_of, settings


def test_unfinished_are_the_distinct_ones_without_a_record(tmp_path):
    requested = expand(settings(), 3)
    for one in requested[:2]:
        (tmp_path / sample_id(one)).mkdir()
    (tmp_path / sample_id(requested[0]) / RECORD).touch()
    assert unfinished([*requested, *requested], tmp_path) == requested[1:]


def test_a_record_gives_its_settings_back():
    one = default_settings(seed=5)
    record = {"id": "x"} | record_of(one, run={"batch_size": 4, "position": 3, "video": True, "devices": 1})
    run = {"batch_size": 4, "position": 3, "video": True}
    older = {"devices_per_sample": 1, "loudness": None}  # which older records do not have
    assert from_record(json.loads(json.dumps(record))) == (one, run | older)
    younger = {"devices_per_sample": 2, "loudness": -16.0}
    record["run"] |= younger | {"gain_db": 12.5}
    assert from_record(record) == (one, run | younger)


@pytest.mark.parametrize(
    "change",
    [
        {"run": None},
        {"run": {"batch_size": 4, "position": 4, "video": True}},
        {"run": {"batch_size": 4, "position": 3, "video": True, "loudness": 7.0}},
        {"image": None},
        {"seed": "1"},
        {"run": 5},
        {"models": [1]},
        {"versions": None},
    ],
)
def test_a_damaged_record_is_refused(change):
    record = record_of(default_settings(), **change)
    with pytest.raises(UserError, match=f"{next(iter(change))}"):
        from_record(record)
