"""Locks for work folders: one process at a time, until it leaves or dies."""

import contextlib
import fnmatch
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from its_jax.errors import UserError
from its_jax.storage import files

FOLDER = ".locks"
# Google Cloud Storage and some network disks have no locks. There the owner rewrites a file with the time every
# BEAT_SECONDS, and counts as dead if it has not done so for STALE_SECONDS.
BEAT_SECONDS, STALE_SECONDS = 60, 300
_ADVICE = "wait for it or stop it, or give this one another --shard_index"


class Locked(UserError):
    """The error that another process holds the lock."""


@contextlib.contextmanager
def hold(workdir: Path, name: str, advice: str = _ADVICE) -> Iterator[None]:
    """Holds the lock of that name in a work folder.

    Raises:
      Locked: another process holds it. The message names that process and ends with `advice`.
    """
    folder = workdir / FOLDER
    with files.explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = _lock_file if files.is_local(workdir) else keep_owner_file
    with lock(folder, name, advice):
        yield


def check_no_other(workdir: Path, pattern: str, but: str) -> None:
    """Raises `Locked` if a process holds a lock whose name matches `pattern` but not `but`."""
    for owner_file in (workdir / FOLDER).glob(f"{pattern}.json"):
        if not fnmatch.fnmatch(owner_file.stem, but):
            with hold(workdir, owner_file.stem):  # This raises unless its owner is dead.
                pass


@contextlib.contextmanager
def wait_turn(workdir: Path, name: str) -> Iterator[None]:
    """Waits until no other process on this disk is inside. It does not wait on disks without locks."""
    with contextlib.ExitStack() as stack:
        if files.is_local(workdir):
            (workdir / FOLDER).mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError, NotImplementedError):
                stack.enter_context(filelock.FileLock(workdir / FOLDER / f"{name}.lock"))
        yield


@contextlib.contextmanager
def _lock_file(folder: Path, name: str, advice: str) -> Iterator[None]:
    """Holds a lock of the operating system, which releases it when the process dies."""
    owner_file, lock = folder / f"{name}.json", filelock.FileLock(folder / f"{name}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise Locked(f"{name} is being made in {folder.parent} by {_read_owner(owner_file)}; {advice}") from error
    except (OSError, NotImplementedError):  # This disk has no locks.
        with keep_owner_file(folder, name, advice):
            yield
        return
    try:
        owner_file.write_bytes(_owner())  # It only informs people, so that a kill may leave half of it.
        yield
    finally:
        owner_file.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def keep_owner_file(
    folder: Path, name: str, advice: str = _ADVICE, *, beat_seconds: float = BEAT_SECONDS
) -> Iterator[None]:
    """Holds a lock on a disk that has none, by a file in `folder` that its owner rewrites every `beat_seconds`.

    Raises:
      Locked: another process holds it.
    """
    owner_file, own, ended = folder / f"{name}.json", uuid.uuid4().hex, threading.Event()
    owner = _read(owner_file)
    if owner and time.time() - owner.get("at", 0) < STALE_SECONDS:
        raise Locked(f"{name} is being made in {folder.parent} by {_read_owner(owner_file)}; {advice}")
    files.write(owner_file, _owner(own))
    if _read(owner_file).get("own") != own:
        raise Locked(f"{name} has just been begun in {folder.parent} by {_read_owner(owner_file)}; {advice}")

    def beat() -> None:
        while not ended.wait(beat_seconds):
            files.write(owner_file, _owner(own))

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        owner_file.unlink(missing_ok=True)


def _owner(own: str = "") -> bytes:
    """Encodes the content of an owner file."""
    owner = {"process": os.getpid(), "host": socket.gethostname(), "at": time.time(), "own": own}
    return json.dumps(owner).encode()


def _read(owner_file: Path) -> dict[str, Any]:
    try:
        return json.loads(owner_file.read_bytes())
    except (OSError, ValueError):
        return {}


def _read_owner(owner_file: Path) -> str:
    owner = _read(owner_file)
    return f"process {owner['process']} on {owner['host']}" if owner else "another process"
