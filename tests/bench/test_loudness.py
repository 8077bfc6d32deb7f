"""The levels that `bench.quality.loudness` reports of finished samples."""

import json

import pytest

from tests.helpers import bench_command
from tests.helpers import finished_samples as finished


def test_levels_are_those_of_the_raw_scale_and_of_the_files(tmp_path, capsys):
    """A sine with an amplitude of 0.2, -13.98 dBFS, in files 3 and 9 dB louder: the median lies between."""
    out = tmp_path / "levels.json"
    for seed, gain_db in enumerate((3.0, 9.0)):
        finished.write(tmp_path / "made", [finished.record({"seed": seed}, gain_db=gain_db)])
    command = ("bench.quality.loudness", f"--workdir={tmp_path / 'made'}", f"--out={out}")
    assert bench_command.run(*command) == 0
    found = json.loads(out.read_text())
    assert (found["samples"], found["gain"]) == (2, {"median": 6.0, "p5": 3.3, "p95": 8.7})
    for name, gain_db in (("raw", 0), ("written", 6)):
        assert found[name]["true_peak"]["median"] == pytest.approx(-13.98 + gain_db, abs=0.05)
        assert found[name]["rms"]["median"] == pytest.approx(-16.99 + gain_db, abs=0.05)
    (tmp_path / "empty").mkdir()
    assert bench_command.run(command[0], f"--workdir={tmp_path / 'empty'}", f"--out={out}") == 2
    assert "has no finished samples" in capsys.readouterr().err
