"""Files that appear whole or not at all, on this machine or in Google Cloud Storage (`gs://`)."""

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
TEMPORARY = ".*.tmp"  # the names of files that a killed process may leave


def to_path(name: str | os.PathLike) -> pathlib.Path:
    """Converts a name such as 'out' or 'gs://bucket/out' to a path.

    Raises:
      UserError: the name begins with gs://, and the packages for it are not installed.
    """
    if not str(name).startswith(_REMOTE):
        return pathlib.Path(name)
    try:
        import gcsfs  # noqa: F401  (epath imports it only at the first access)
        from etils import epath
    except ImportError as error:
        raise UserError(f"{name}: needs gcsfs; pip install 'its_jax[gcs]'") from error
    return epath.Path(name)


def is_local(path: str | os.PathLike) -> bool:
    """Returns whether a path is on a disk of this machine, rather than in an object store."""
    return not str(path).startswith(_REMOTE)


def absolute_path(path: pathlib.Path) -> str:
    """Returns an absolute path, valid in processes with another working directory."""
    return str(path.absolute() if is_local(path) else path)


def size(path: pathlib.Path) -> int:
    """Returns the size of a file in bytes."""
    stat: Any = path.stat()
    return stat.st_size if is_local(path) else stat.length


def write(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that it is never seen incomplete.

    Raises:
      DiskFull: there is not enough space.
      UserError: the file cannot be written for another reason.
    """
    path = to_path(path)
    with explain_os_errors(path):
        if not is_local(path):
            path.write_bytes(data)  # Cloud storage shows an object only when it is complete.
            return
        with _renamed(path) as temporary, open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def _renamed(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`. The file there is renamed to `path`, or removed after an error."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_leftovers(*folders: pathlib.Path) -> None:
    """Removes the temporary files of killed processes from local folders into which no process is writing."""
    for folder in folders:
        for path in folder.glob(TEMPORARY):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def explain_os_errors(path: str | os.PathLike, what: str = "write") -> Iterator[None]:
    """Turns an OSError inside into a UserError with the path and the reason."""
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in _FULL else UserError
        raise kind(f"{path}: cannot {what}: {describe(error)}") from error


def describe(error: Exception) -> str:
    """Returns the reason that an error gives, in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a JSON file that holds an object. UserError: it cannot be read or holds something else."""
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content


def write_json(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Writes the result of `json_bytes` to a file. UserError: the file cannot be written."""
    write(path, json_bytes(content))


def json_bytes(content: dict[str, Any]) -> bytes:
    """Encodes indented JSON in UTF-8."""
    return (to_json(content, ensure_ascii=False, indent=2) + "\n").encode(errors="backslashreplace")


def to_json(content: dict[str, Any], **options: Any) -> str:
    """Encodes JSON. ValueError: a value is NaN or infinite, which JSON lacks."""
    return json.dumps(content, allow_nan=False, **options)
