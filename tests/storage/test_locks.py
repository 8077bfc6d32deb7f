"""One process at a time holds the lock of a shard."""

import json
import multiprocessing
import os
import time

import filelock
import pytest

from its_jax.storage import files, locks


def hold(workdir, began):
    with locks.hold(workdir, "shard-0-of-1"):
        began.set()
        time.sleep(600)


@pytest.fixture
def holder(tmp_path):
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    process = context.Process(target=hold, args=(tmp_path, began))
    process.start()
    assert began.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_refused_and_learns_who_holds_the_lock(tmp_path, holder):
    with pytest.raises(locks.Locked, match=rf"shard-0-of-1 is being made in .* by process {holder.pid} on "):
        with locks.hold(tmp_path, "shard-0-of-1"):
            pass
    with locks.hold(tmp_path, "shard-1-of-2"):
        pass


def test_a_lock_is_released_when_its_process_dies(tmp_path, holder):
    holder.kill()
    holder.join()
    with locks.hold(tmp_path, "shard-0-of-1"):
        assert json.loads((tmp_path / ".locks" / "shard-0-of-1.json").read_bytes())["process"] == os.getpid()
    assert not list((tmp_path / ".locks").glob("*.json"))


@pytest.fixture
def unlockable(monkeypatch):
    """Simulates a disk without locks."""

    def refuse(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)


def test_on_a_disk_without_locks_an_owner_file_replaces_them(tmp_path, unlockable):
    owner_file = tmp_path / ".locks" / "shard.json"
    with locks.hold(tmp_path, "shard"):
        assert json.loads(owner_file.read_bytes())["process"] == os.getpid()
        with pytest.raises(locks.Locked, match=f"by process {os.getpid()}"), locks.hold(tmp_path, "shard"):
            pass
    assert not owner_file.exists()


def test_an_owner_file_is_rewritten_again_and_again(tmp_path):
    owner_file = tmp_path / "shard.json"
    with locks.keep_owner_file(tmp_path, "shard", beat_seconds=0.01):
        first = json.loads(owner_file.read_bytes())["at"]
        while json.loads(owner_file.read_bytes())["at"] == first:
            time.sleep(0.01)
    assert not owner_file.exists()


def test_an_old_owner_file_no_longer_counts(tmp_path):
    owner_file = tmp_path / "shard.json"
    owner = {"process": 1, "host": "gone", "own": "x"}
    files.write(owner_file, json.dumps(owner | {"at": time.time() - locks.STALE_SECONDS + 60}).encode())
    with pytest.raises(locks.Locked, match="process 1 on gone"), locks.keep_owner_file(tmp_path, "shard"):
        pass
    files.write(owner_file, json.dumps(owner | {"at": time.time() - locks.STALE_SECONDS - 1}).encode())
    with locks.keep_owner_file(tmp_path, "shard"):
        pass
