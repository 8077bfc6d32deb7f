"""Every command of `bench/` lists its flags and reports wrong ones."""

import pathlib

import pytest

from tests.helpers import bench_command

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = sorted((ROOT / "bench").rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__main__" else parts)


COMMANDS = [module_name(path) for path in SOURCES if "__main__" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("module", COMMANDS)
def test_commands_list_their_flags(module, capsys):
    assert bench_command.run(module, "--help") == 0
    assert "--out" in capsys.readouterr().out


def test_commands_report_unknown_flags_in_one_line(capsys):
    assert bench_command.run("bench.quality.colors", "--wrokdir=out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "wrokdir" in line
