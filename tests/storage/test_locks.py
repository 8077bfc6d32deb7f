"""One process for each share of a sweep."""

import json
import multiprocessing
import os
import time

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


def test_a_second_process_is_told_who_holds_it(tmp_path, holder):
    with pytest.raises(locks.Locked, match=rf"shard-0-of-1 is being made in .* by process {holder.pid} on "):
        with locks.hold(tmp_path, "shard-0-of-1"):
            pass
    with locks.hold(tmp_path, "shard-1-of-2"):
        pass


def test_a_lock_ends_with_its_process(tmp_path, holder):
    holder.kill()
    holder.join()
    with locks.hold(tmp_path, "shard-0-of-1"):
        assert json.loads((tmp_path / ".locks" / "shard-0-of-1.json").read_bytes())["process"] == os.getpid()
    assert not list((tmp_path / ".locks").glob("*.json"))


@pytest.fixture
def unlockable(monkeypatch):
    """A disk without locks."""

    def refuse(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(locks.filelock.FileLock, "acquire", refuse)


def test_without_locks_a_signature_serves(tmp_path, unlockable, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    sign = tmp_path / ".locks" / "shard.json"
    with locks.hold(tmp_path, "shard"):
        first = json.loads(sign.read_bytes())["at"]
        with pytest.raises(locks.Locked, match=f"by process {os.getpid()}"), locks.hold(tmp_path, "shard"):
            pass
        while json.loads(sign.read_bytes())["at"] == first:  # it is signed again and again
            time.sleep(0.01)
    assert not sign.exists()


def test_a_signature_grows_stale(tmp_path, unlockable):
    sign = tmp_path / ".locks" / "shard.json"
    sign.parent.mkdir()
    who = {"process": 1, "host": "gone", "own": "x"}
    files.write(sign, json.dumps(who | {"at": time.time() - locks.STALE_SECONDS + 60}).encode())
    with pytest.raises(locks.Locked, match="process 1 on gone"), locks.hold(tmp_path, "shard"):
        pass
    files.write(sign, json.dumps(who | {"at": time.time() - locks.STALE_SECONDS - 1}).encode())
    with locks.hold(tmp_path, "shard"):
        pass
