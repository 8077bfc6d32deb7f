"""Sweeps by actors of Ray, on this machine."""

import os
import pathlib
import signal
import threading
import time

import pytest

from its_jax import errors
from its_jax.settings.schema import RunOptions
from its_jax.storage import samples
from its_jax.sweep import ray_engine
from its_jax.sweep.run import run_sweep

ray = pytest.importorskip("ray")


def actor_processes():
    """Returns the process ids of busy actors."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::Worker"):
                found.append(int(path.parent.name))
        except OSError:  # The process has just ended.
            pass
    return found


def kill_one(workdir, killed):
    """Kills an actor once a sample is written."""
    while not list(workdir.glob("*/sample.json")):
        time.sleep(0.02)
    (pid, *_) = actor_processes()
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)


def runs(workdir):
    """Returns what each record says of the run that must not depend on the engine."""
    names = ("latents_sha256", "loudness", "gain_db")
    made = samples.open_samples(workdir).items()
    return {name: [sample.record["run"][key] for key in names] for name, sample in made}


@pytest.mark.usefixtures("quick_programs")
@pytest.mark.slow
def test_the_batches_of_a_killed_actor_are_generated_again_to_the_same_bits(small, tmp_path, caplog):
    settings, axes = small(num_samples=1, batch_size=8, loudness=-30.0).to_dict(), ["seed=0..11", "num_steps=4,5"]
    run_sweep(settings, tmp_path / "here", axes=axes)
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(tmp_path / "ray", killed), daemon=True)
    killer.start()
    run_sweep(settings, tmp_path / "ray", axes=axes, ray={"resources": {"CPU": 1}, "address": "local"})
    killer.join()
    assert killed and "an actor died" in caplog.text
    assert len(list((tmp_path / "ray").glob("*/sample.json"))) == 24
    assert runs(tmp_path / "ray") == runs(tmp_path / "here")
    assert all(loudness == -30 for _, loudness, _ in runs(tmp_path / "ray").values())
    assert not [path for path in (tmp_path / "ray").glob("*/.*")]


def test_wrong_options_of_ray_are_named(small, tmp_path, monkeypatch):
    settings = small(num_samples=1).to_dict()
    with pytest.raises(errors.UserError, match="--engine=ray distributes the sweep itself"):
        run_sweep(settings, tmp_path, axes=["seed=0..3"], shard=(0, 2), ray={})
    with pytest.raises(errors.UserError, match="--ray_address=127.0.0.1:1: no Ray cluster found"):
        run_sweep(settings, tmp_path, axes=["seed=0..3"], ray={"address": "127.0.0.1:1"})
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(errors.UserError, match=r"pip install 'its_jax\[ray\]'"):
        ray_engine.run_on_ray(
            [], tmp_path, set(), options=RunOptions(num_samples=1, batch_size=0, devices_per_sample=1, video=False)
        )
