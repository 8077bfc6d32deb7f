"""The files of samples, and the sample command in a process of its own."""

import os
import pathlib
import subprocess
import sys

import numpy as np

from its_jax.media import images, sounds

ROOT = pathlib.Path(__file__).parents[2]

FILES = ["audio.wav", "image.png", "sample.json", "spectrogram.png", "video.mp4"]


def folder_of(seed, workdir):
    (folder,) = workdir.glob(f"*_{seed}_*")
    return folder


def state_of(workdir):
    """File -> time of its last change."""
    return {path: path.stat().st_mtime_ns for path in workdir.rglob("*.*") if path.is_file()}


def assert_same_sample(folder, other):
    for name in ("image.png", "spectrogram.png"):
        np.testing.assert_array_equal(images.read_png(folder / name)[0], images.read_png(other / name)[0])
    np.testing.assert_array_equal(sounds.read_wav(folder / "audio.wav")[0], sounds.read_wav(other / "audio.wav")[0])


def in_a_process(*arguments, program="its_jax.sample"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
