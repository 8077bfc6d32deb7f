"""The benchmark command: what it prints and writes, and that mistakes are reported before anything is measured."""

import json

import pytest

from tests.helpers.sample_files import in_a_process
from tests.helpers.small import CONFIG, SMALL

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.mark.slow
def test_the_command_times_every_stage_and_counts_its_work(models, tmp_path, monkeypatch):
    """Runs on one device, with a matrix product that is compiled well; test_measure.py tests the figures."""
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    settings = [f"--config.{key}={value}" for key, value in (SMALL | models).items()]
    command = [f"--config={CONFIG}", *settings, "--batches=2,1", "--repeats=1", f"--out={tmp_path}/a/b.json"]
    run = in_a_process(*command, program="its_jax.benchmark")
    assert run.returncode == 0, run.stderr
    figures = json.loads((tmp_path / "a/b.json").read_text())
    assert [batch["batch_size"] for batch in figures["batches"]] == [1, 2]
    for name in ("machine", "date", "versions", "settings"):
        assert figures[name]
    *_, title, first, second = run.stdout.splitlines()
    assert "of product" in title and first.startswith("1 ") and second.startswith("2 ")
    for name in figures["batches"][0]["stages"]:
        assert name in run.stdout


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--batches=1,x", "numbers of 1 or more"),
        ("--out={folder}", "is a folder"),
        ("--batches=1 --config.devices_per_sample=3", "devices_per_sample=3"),
        ("--out={file}/b.json", "cannot be"),
    ],
)
def test_mistakes_are_reported_before_anything_is_measured(models, tmp_path, flag, words):
    (tmp_path / "file").touch()
    settings = [f"--config.{key}={value}" for key, value in (SMALL | models).items()]
    wrong = flag.format(folder=tmp_path, file=tmp_path / "file").split()
    run = in_a_process(f"--config={CONFIG}", *settings, *wrong, program="its_jax.benchmark")
    assert run.returncode == 2 and words in run.stderr and len(run.stderr.splitlines()) == 1
