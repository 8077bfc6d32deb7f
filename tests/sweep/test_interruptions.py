"""Sweeps that are killed, run twice, or run out of disk space: the same command completes them, to the same bits."""

import contextlib
import os
import random
import signal
import subprocess
import tarfile
import time

import pytest

from its_jax import errors
from its_jax.storage import files, locks, samples, writers
from its_jax.sweep import run
from tests.helpers.sweep_runs import SAMPLES, assert_whole_tars, finish, latents, leftovers, start


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Latents of a sweep that nothing interrupts; they are the same in each layout."""
    found = {}
    for layout in writers.LAYOUTS:
        workdir = tmp_path_factory.mktemp(layout)
        finish(start(workdir, f"--layout={layout}", seconds=0))
        found[layout] = latents(workdir)
    assert len(found["folders"]) == SAMPLES and found["folders"] == found["shards"]
    return found["folders"]


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for_first_line(process):
    """Waits for the plan, after which the work begins."""
    assert process.stdout.readline()


def wait_for_lock(workdir):
    while not list((workdir / ".locks").glob("*.json")):
        time.sleep(0.05)


@contextlib.contextmanager
def small_disk(path, size):
    """Mounts a disk of this size, where this machine allows it."""
    path.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("mounting requires rights that this process does not have")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("layout", writers.LAYOUTS)
def test_a_sweep_killed_at_any_moment_ends_with_the_same_samples(layout, uninterrupted, tmp_path):
    rng, kills = random.Random(layout), 0
    while True:
        process = start(tmp_path, f"--layout={layout}", seconds=0.2)
        wait_for_first_line(process)
        time.sleep(rng.uniform(0, 1.5 + kills / 4))  # Rising, so that a run ends on a slow machine, too.
        if process.poll() is not None:
            break
        kill(process)
        kills += 1
    assert process.returncode == 0 and kills >= 2
    assert latents(tmp_path) == uninterrupted
    assert not leftovers(tmp_path)
    if layout == "shards":
        assert_whole_tars(tmp_path, uninterrupted)


def test_three_shards_generate_what_one_process_does_though_one_is_killed(uninterrupted, tmp_path):
    running = [start(tmp_path, f"--shard_index={i}", "--num_shards=3", seconds=0.6) for i in range(3)]
    wait_for_first_line(running[1])
    time.sleep(0.7)
    kill(running[1])
    finish(running[0]), finish(running[2])
    assert len(samples.open_samples(tmp_path)) < SAMPLES
    finish(start(tmp_path, "--shard_index=1", "--num_shards=3", seconds=0))
    assert latents(tmp_path) == uninterrupted and not leftovers(tmp_path)


def test_two_processes_cannot_generate_the_same_shard(tmp_path):
    first = start(tmp_path, seconds=30)
    wait_for_lock(tmp_path)
    second = start(tmp_path)
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"error: shard-0-of-1 is being made in {tmp_path} by process {first.pid} on " in out
    kill(first)
    finish(start(tmp_path, seconds=0))  # The lock ended with its process.
    assert len(samples.open_samples(tmp_path)) == SAMPLES


def test_processes_must_agree_on_the_number_of_shards(tmp_path):
    first = start(tmp_path, "--shard_index=0", "--num_shards=2", seconds=30)
    wait_for_lock(tmp_path)
    second = start(tmp_path)
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 2 and "error: shard-0-of-2 is being made in" in out
    kill(first)
    finish(start(tmp_path, seconds=0))
    assert len(samples.open_samples(tmp_path)) == SAMPLES


def test_an_unreadable_record_is_set_aside_and_its_sample_generated_again(tiny, tmp_path, caplog):
    tiny(tmp_path)
    before = latents(tmp_path)
    broken = next(tmp_path.glob("*/sample.json"))
    broken.write_text('{"seed": ')
    tiny(tmp_path)
    assert f"{broken}: cannot be read; its sample will be regenerated" in caplog.text
    assert broken.with_name("sample.json.unreadable").read_text() == '{"seed": '
    assert latents(tmp_path) == before


def test_an_unreadable_line_of_an_index_is_named_and_its_sample_generated_again(tiny, tmp_path, caplog):
    tiny(tmp_path, layout="shards")
    before = latents(tmp_path)
    (index,) = writers.indices(tmp_path)
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(lines[0] + b'{"id": \n' + b"".join(lines[2:]))
    tiny(tmp_path, layout="shards")
    assert f"{index}, line 2: cannot be read; its sample will be regenerated" in caplog.text
    assert latents(tmp_path) == before


def test_a_work_folder_that_is_a_file_is_named(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    for workdir in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(errors.UserError, match=f"{workdir}: cannot (read|write): Not a directory"):
            tiny(workdir)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("layout", writers.LAYOUTS)
def test_a_sweep_continues_after_a_full_disk(layout, tiny, tmp_path, monkeypatch):
    tiny(tmp_path / "whole", ["seed=0..9"], layout=layout)
    calls, write = [], os.fsync

    def full(file):
        calls.append(file)
        if len(calls) > 15:
            raise OSError(28, "No space left on device")
        write(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(errors.DiskFull, match="No space left on device") as caught:
            tiny(tmp_path / "out", ["seed=0..9"], layout=layout)
    assert caught.value.status == 3
    assert 0 < len(latents(tmp_path / "out")) < 10
    tiny(tmp_path / "out", ["seed=0..9"], layout=layout)
    assert latents(tmp_path / "out") == latents(tmp_path / "whole") and not leftovers(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("layout", writers.LAYOUTS)
def test_a_sweep_continues_after_a_small_disk_is_really_full(layout, tiny, tmp_path):
    tiny(tmp_path / "whole", ["seed=0..9"], layout=layout)
    disk = tmp_path / "disk"
    for size in range(60, 260, 8):
        with small_disk(disk, f"{size}k"):
            with contextlib.suppress(errors.DiskFull):
                tiny(disk / "out", ["seed=0..9"], layout=layout, confirmed=True)
            subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
            tiny(disk / "out", ["seed=0..9"], layout=layout)
            assert latents(disk / "out") == latents(tmp_path / "whole") and not leftovers(disk)
            if layout == "shards":
                assert_whole_tars(disk / "out", latents(disk / "out"))


def test_a_full_disk_is_exit_status_3(tmp_path):
    with small_disk(tmp_path / "disk", "200k"):
        process = start(tmp_path / "disk" / "out", "--config.width=256", "--yes", seconds=0)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 3 and "cannot write: No space left on device" in out.splitlines()[-1]


def test_a_sweep_of_more_than_the_free_space_is_refused(tmp_path):
    with small_disk(tmp_path / "disk", "200k"):
        process = start(tmp_path / "disk" / "out", "--config.width=256", seconds=0)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 2 and not (tmp_path / "disk" / "out").exists()
        message = out.splitlines()[-1]
        assert message.startswith("error: 40 samples to generate need up to") and "204.8 kB are free" in message
        assert "--yes" in message


def test_a_kill_while_the_gallery_is_written_leaves_nothing(tiny, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def write_half(path, data, write=files.write):
        if path.suffix != ".html":
            return write(path, data)
        (path.parent / ".0123.tmp").write_bytes(data[:9])
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(files, "write", write_half)
        tiny(tmp_path)
    assert leftovers(tmp_path) and not (tmp_path / "gallery.html").exists()
    tiny(tmp_path)
    assert not leftovers(tmp_path) and (tmp_path / "gallery.html").exists()


def test_leftovers_of_a_writer_that_still_runs_are_kept(tmp_path):
    writer = writers.ShardWriter(tmp_path, "actor-0")
    content = [("a.png", b"1" * 999), ("sample.json", b"{}")]
    with locks.hold(tmp_path, "actor-0"):
        writer.add("first", content)
        run.remove_leftovers("shards", tmp_path)
        writer.add("second", content)
        with open(tmp_path / "shards" / "actor-0-00000.tar", "ab") as tar:
            tar.write(b"torn")
    writer.close()
    run.remove_leftovers("shards", tmp_path)
    with tarfile.open(tmp_path / "shards" / "actor-0-00000.tar") as tar:
        assert tar.getnames() == ["first.a.png", "first.json", "second.a.png", "second.json"]
