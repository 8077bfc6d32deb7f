"""Fixtures of the tests of the sample command: a shared program, its samples, and the command itself."""

import functools

import pytest

from its_jax import Pipeline, sample
from tests.helpers.command import run_main
from tests.helpers.fixed_pipeline import FixedPipeline
from tests.helpers.sample_files import folder_of
from tests.helpers.small import CONFIG, SMALL


@pytest.fixture(scope="module")
def program(expand):
    requested = expand()
    return Pipeline().compile(requested[0], pending=len(requested), batch_size=2)


@pytest.fixture
def shared(program):
    """A pipeline whose runs share one program."""
    return FixedPipeline(program)


@pytest.fixture(scope="module")
def made(small, program, tmp_path_factory):
    """A folder with three samples, the last with its video too."""
    workdir, pipeline = tmp_path_factory.mktemp("made"), FixedPipeline(program)
    sample.run(small(), workdir, pipeline)
    for seed in (0, 1):
        (folder_of(seed, workdir) / "video.mp4").touch()  # so that the last is the only one without
    sample.run(small(video=True), workdir, pipeline)
    for seed in (0, 1):
        (folder_of(seed, workdir) / "video.mp4").unlink()
    return workdir


@pytest.fixture
def command(capsys):
    """Runs the command in this process, and returns its exit status and the lines on stderr."""

    def run(*arguments, pipeline=None):
        status = run_main(functools.partial(sample.main, pipeline), "sample", *arguments)
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture
def refused(command, models, tmp_path):
    """Runs a small config with wrong changes, and returns the one line on stderr, without `error: `."""

    def run(change, pipeline=None):
        settings = SMALL | models | change
        flags = [f"--config.{key}={value}" for key, value in settings.items()]
        status, lines = command(f"--config={CONFIG}", f"--workdir={tmp_path / 'out'}", *flags, pipeline=pipeline)
        assert status == 2 and len(lines) == 1, lines
        assert not (tmp_path / "out").exists()
        return lines[0].removeprefix("error: ")

    return run
