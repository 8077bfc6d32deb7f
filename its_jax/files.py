"""Files that appear whole or not at all: on this machine or, as gs://, in Google Cloud Storage."""

import contextlib
import errno
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

from its_jax.errors import DiskFull, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REMOTE = ("gs://",)
TEMPORARY = ".*.tmp"  # what a kill while writing may leave


def folder(name: str | os.PathLike) -> pathlib.Path:
    """'out' or 'gs://bucket/out' -> a path; UserError: what gs:// needs is not installed."""
    if not str(name).startswith(_REMOTE):
        return pathlib.Path(name)
    try:
        import gcsfs  # noqa: F401  (epath looks for it at the first access only)
        from etils import epath
    except ImportError as error:
        raise UserError(f"{name}: needs gcsfs; pip install 'its_jax[gcs]'") from error
    return epath.Path(name)


def is_local(path: str | os.PathLike) -> bool:
    return not str(path).startswith(_REMOTE)


def size(path: pathlib.Path) -> int:
    """Bytes."""
    stat: Any = path.stat()
    return stat.st_size if is_local(path) else stat.length


def write(path: str | os.PathLike, data: bytes) -> None:
    """Puts `data` there, under a temporary name first. UserError: cannot write; DiskFull: for want of space."""
    path = folder(path)
    with reasons(path):
        if not is_local(path):
            path.write_bytes(data)  # an object is there whole or not at all
            return
        with _renamed(path) as temporary, open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def sweep_up(*folders: pathlib.Path) -> None:
    """Removes what kills left in these local folders, into which nobody is writing."""
    for place in folders:
        for path in place.glob(TEMPORARY):
            path.unlink(missing_ok=True)


def absolute(path: pathlib.Path) -> str:
    """Its name for other processes, whose working folder may be another."""
    return str(path.absolute() if is_local(path) else path)


@contextlib.contextmanager
def reasons(path: str | os.PathLike, what: str = "write") -> Iterator[None]:
    """An OSError inside becomes a UserError with path and reason."""
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in _FULL else UserError
        raise kind(f"{path}: cannot {what}: {reason(error)}") from error


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())


@contextlib.contextmanager
def _renamed(path):
    """Gives a name beside `path`; the file there becomes `path`, or goes after an error."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
