"""While programs are compiled, the log says how long that took last time."""

import json
import logging

import jax
import pytest

from its_jax import Pipeline
from its_jax.pipeline import compile_times
from its_jax.runtime.cache import cache_folder

PROGRAM = {"width": 512, "image": ("tiny/image", "identity", 2, True)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compile_for(caplog):
    """Compiles nothing for a program, and returns the lines that are logged."""
    caplog.set_level(logging.INFO)

    def compile_(program=PROGRAM, batch_size=2):
        caplog.clear()
        with compile_times.announced(program, batch_size, jax.devices()[0]):
            pass
        return caplog.messages

    return compile_


def change(seconds):
    """Replaces the durations on record."""
    path = cache_folder() / compile_times.FILE
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), seconds)))


def test_the_second_time_tells_the_duration_of_the_first(compile_for):
    assert compile_for() == ["compiling"]
    change(41.2)
    assert compile_for() == ["compiling (took 41 s last time)"]
    assert compile_for() == ["compiling (took 0 s last time)"]  # the duration of the run before


def test_other_programs_and_batch_sizes_have_their_own_duration(compile_for):
    compile_for()
    assert compile_for(PROGRAM | {"width": 1024}) == ["compiling"]
    assert compile_for(batch_size=4) == ["compiling"]
    change(150)
    assert compile_for(PROGRAM | {"width": 1024}) == ["compiling (took 2 min last time)"]


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"KEY": "long"}', '{"KEY": NaN}', '{"KEY": -1}', '{"KEY": null}'])
def test_a_damaged_record_is_replaced(compile_for, cache, damage):
    compile_for()
    path = cache / compile_times.FILE
    (key,) = json.loads(path.read_text())
    path.write_text(damage.replace("KEY", key))
    assert compile_for() == ["compiling"]
    assert json.loads(path.read_text()).keys() == {key}


def test_a_cache_folder_that_cannot_be_written_to_costs_only_the_record(compile_for, cache):
    cache.write_text("a file, not a folder")
    assert compile_for() == ["compiling"] and compile_for() == ["compiling"]


def test_what_fails_is_not_on_record(cache):
    with pytest.raises(ZeroDivisionError), compile_times.announced(PROGRAM, 2, jax.devices()[0]):
        raise ZeroDivisionError
    assert not cache.exists()


def test_the_record_stays_small(compile_for, cache):
    cache.mkdir()
    many = {f"{i:020x}": 1.0 for i in range(2 * compile_times.MOST)}
    (cache / compile_times.FILE).write_text(json.dumps(many))
    compile_for()
    kept = list(json.loads((cache / compile_times.FILE).read_text()))
    assert len(kept) == compile_times.MOST and kept[-2] == list(many)[-1]


@pytest.mark.usefixtures("quick_programs")
def test_a_pipeline_announces_what_it_compiles(expand, caplog):
    caplog.set_level(logging.INFO)
    one = expand()[0]
    for expected in ("compiling", "compiling (took "):
        Pipeline().compile(one, batch_size=2)
        (line,) = [message for message in caplog.messages if message.startswith("compiling")]
        assert line.startswith(expected) and ("last time" in line) == ("took" in expected)
        caplog.clear()
