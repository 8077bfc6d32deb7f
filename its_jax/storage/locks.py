"""One process at a time: a lock that ends with the process that held it."""

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

import filelock

from its_jax.errors import UserError
from its_jax.storage import files

FOLDER = ".locks"
# Where nothing can be locked (Google Cloud Storage, some network disks), the holder signs every so many seconds, and is
# taken for dead if it has not for so long.
BEAT_SECONDS, STALE_SECONDS = 60, 300
_ADVICE = "wait for it or stop it, or give this one another --shard_index"


class Locked(UserError):
    """Another process has it."""


@contextlib.contextmanager
def hold(workdir: Path, name: str, advice: str = _ADVICE) -> Iterator[None]:
    """Holds the lock of that name in a work folder. Locked: another process does, and which; `advice` is told, too."""
    folder = workdir / FOLDER
    with files.explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    hold = _locked if files.is_local(workdir) else _keep_owner_file
    with hold(folder, name, advice):
        yield


def check_no_other(workdir: Path, pattern: str, but: str) -> None:
    """Raises `Locked` if a process holds a lock whose name fits `pattern` and not `but`."""
    for sign in (workdir / FOLDER).glob(f"{pattern}.json"):
        if not fnmatch.fnmatch(sign.stem, but):
            with hold(workdir, sign.stem):  # nobody's any more
                pass


@contextlib.contextmanager
def wait_turn(workdir: Path, name: str) -> Iterator[None]:
    """Waits until no other process on this disk is inside; where nothing can be locked, does not."""
    with contextlib.ExitStack() as stack:
        if files.is_local(workdir):
            (workdir / FOLDER).mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError, NotImplementedError):
                stack.enter_context(filelock.FileLock(workdir / FOLDER / f"{name}.lock"))
        yield


@contextlib.contextmanager
def _locked(folder, name, advice):
    """By the operating system, which takes the lock from a process that dies."""
    sign, lock = folder / f"{name}.json", filelock.FileLock(folder / f"{name}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise Locked(f"{name} is being made in {folder.parent} by {_read_owner(sign)}; {advice}") from error
    except (OSError, NotImplementedError):  # this disk has no locks
        with _keep_owner_file(folder, name, advice):
            yield
        return
    try:
        sign.write_bytes(_owner())  # for people: no harm is done if a kill leaves half of it
        yield
    finally:
        sign.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _keep_owner_file(folder, name, advice):
    """By a file that says who holds it, and since when it did not say so again."""
    sign, own, ended = folder / f"{name}.json", uuid.uuid4().hex, threading.Event()
    signed = _read(sign)
    if signed and time.time() - signed.get("at", 0) < STALE_SECONDS:
        raise Locked(f"{name} is being made in {folder.parent} by {_read_owner(sign)}; {advice}")
    files.write(sign, _owner(own))
    if _read(sign).get("own") != own:
        raise Locked(f"{name} has just been begun in {folder.parent} by {_read_owner(sign)}; {advice}")

    def beat():
        while not ended.wait(BEAT_SECONDS):
            files.write(sign, _owner(own))

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        sign.unlink(missing_ok=True)


def _owner(own=""):
    who = {"process": os.getpid(), "host": socket.gethostname(), "at": time.time(), "own": own}
    return json.dumps(who).encode()


def _read(sign):
    try:
        return json.loads(sign.read_bytes())
    except (OSError, ValueError):
        return {}


def _read_owner(sign):
    who = _read(sign)
    return f"process {who['process']} on {who['host']}" if who else "another process"
