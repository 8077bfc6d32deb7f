"""Sweeps for tests: in processes of their own, and what they have written."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile

from its_jax.storage import samples
from tests.helpers import sweep_driver
from tests.helpers.small import CONFIG

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ["--config.height=16", "--config.width=32", "--config.num_samples=1", "--config.video=False"]
GRID = ["--axis=seed=0..9", "--axis=image.prompt=a castle,a dog", "--axis=num_steps=10,20"]
SAMPLES = 40  # of GRID


def start(workdir, *flags, seconds=0.05):
    """Starts a sweep over GRID with noise in place of models; a batch takes this many seconds."""
    driver = [sys.executable, sweep_driver.__file__]
    return subprocess.Popen(
        [*driver, f"--config={CONFIG}", f"--workdir={workdir}", *SMALL, *GRID, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"SECONDS_OF_BATCH": str(seconds), "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def output(workdir, *flags):
    """Runs the sweep command with these flags only, and returns what it has printed to stdout."""
    command = [sys.executable, sweep_driver.__file__, f"--workdir={workdir}", *flags]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300
    ).stdout


def finish(process):
    """Waits for a sweep, which must succeed."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out


def latents(workdir):
    """Returns the hash of the latents by id, of a work folder of any layout, after it has read all files."""
    found = {}
    for name, sample in samples.open_samples(workdir).items():
        assert sample.read_image().shape == (16, 32) and sample.read_image("image").shape == (16, 32, 3)
        assert sample.read_audio()[0].shape == (32 * 160,)
        assert json.loads(sample.read("sample.json"))["id"] == name and sample.record["id"] == name
        assert name.encode() in sample.read("image.png")
        found[name] = sample.record["run"]["latents_sha256"]
    return found


def leftovers(workdir):
    """Returns hidden files other than locks, and the owner files of locks that are held."""
    hidden = [path for path in workdir.rglob(".*") if path.is_file()]
    return hidden + list(workdir.rglob(".locks/*.json"))


def assert_whole_tars(workdir, expected):
    """Checks that tar files hold each sample once, its files and record in a row, as WebDataset reads them."""
    found = []
    for path in (workdir / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            names = tar.getnames()
        for name in dict.fromkeys(name.partition(".")[0] for name in names):
            kinds = [other.partition(".")[2] for other in names if other.partition(".")[0] == name]
            assert kinds == ["image.png", "spectrogram.png", "audio.flac", "json"]
            found.append(name)
    assert sorted(found) == sorted(expected)
