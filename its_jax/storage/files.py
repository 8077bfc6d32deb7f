"""Files that appear whole or not at all: on this machine or, as gs://, in Google Cloud Storage."""

import contextlib
import errno
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

from its_jax.errors import DiskFull, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REMOTE = ("gs://",)
TEMPORARY = ".*.tmp"  # what a kill while writing may leave


def to_path(name: str | os.PathLike) -> pathlib.Path:
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
    path = to_path(path)
    with explain_os_errors(path):
        if not is_local(path):
            path.write_bytes(data)  # an object is there whole or not at all
            return
        with _renamed(path) as temporary, open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def remove_leftovers(*folders: pathlib.Path) -> None:
    """Removes what kills left in these local folders, into which nobody is writing."""
    for place in folders:
        for path in place.glob(TEMPORARY):
            path.unlink(missing_ok=True)


def absolute_path(path: pathlib.Path) -> str:
    """Its name for other processes, whose working folder may be another."""
    return str(path.absolute() if is_local(path) else path)


@contextlib.contextmanager
def explain_os_errors(path: str | os.PathLike, what: str = "write") -> Iterator[None]:
    """An OSError inside becomes a UserError with path and reason."""
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in _FULL else UserError
        raise kind(f"{path}: cannot {what}: {describe(error)}") from error


def describe(error: Exception) -> str:
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


def read_json(path):
    """The object in a JSON file; `UserError` if there is none."""
    try:
        raw = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(raw).__name__}")
    return raw


def write_json(path: str | os.PathLike, content: dict) -> None:
    """See `text`. UserError: cannot write."""
    write(path, json_bytes(content))


def json_bytes(content: dict) -> bytes:
    """Indented JSON in UTF-8."""
    return (to_json(content, ensure_ascii=False, indent=2) + "\n").encode(errors="backslashreplace")


def to_json(content: dict, **options) -> str:
    """NaN and infinity, which JSON lacks, are refused."""
    return json.dumps(content, allow_nan=False, **options)
