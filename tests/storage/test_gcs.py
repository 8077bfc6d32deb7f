"""Sweeps into Google Cloud Storage, by an emulator on this machine."""

import socket
from typing import Any

import pytest

from configs import default
from its_jax import errors
from its_jax.storage import files, locks, samples, writers
from its_jax.sweep.run import run_sweep
from tests.helpers.sweep_driver import FakePipeline

server = pytest.importorskip("gcp_storage_emulator.server")


@pytest.fixture(scope="module")
def bucket():
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    running = server.create_server("localhost", port, in_memory=True, default_bucket="bucket")
    running.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
        yield "gs://bucket"
    running.stop()


@pytest.mark.parametrize("layout", writers.LAYOUTS)
def test_a_sweep_is_generated_continued_and_read_as_on_a_disk(layout, bucket, tmp_path):
    settings = default.get_config().to_dict() | {"height": 16, "width": 32, "num_samples": 1, "video": False}
    workdir = files.to_path(f"{bucket}/{layout}")
    pipeline: Any = FakePipeline()
    for axis in ("seed=0..4", "seed=0..6"):
        run_sweep(settings | {"layout": layout}, workdir, axes=[axis], pipeline=pipeline)
        run_sweep(settings, tmp_path, axes=[axis], pipeline=pipeline)
    local, remote = samples.open_samples(tmp_path), samples.open_samples(workdir)
    assert list(local) == list(remote) and len(remote) == 7
    for name, sample in remote.items():
        assert (sample.read_image("image") == local[name].read_image("image")).all()
        assert (sample.read_audio()[0] == local[name].read_audio()[0]).all()


def test_one_process_at_a_time_holds_a_lock(bucket):
    workdir = files.to_path(f"{bucket}/locked")
    with locks.hold(workdir, "shard-0-of-1"):
        with pytest.raises(locks.Locked, match="shard-0-of-1 is being made in gs://bucket/locked by process"):
            with locks.hold(workdir, "shard-0-of-1"):
                pass
    with locks.hold(workdir, "shard-0-of-1"):
        pass


def test_a_missing_package_is_named_in_the_error(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(errors.UserError, match=r"gs://bucket/a: needs gcsfs; pip install 'its_jax\[gcs\]'"):
        files.to_path("gs://bucket/a")
