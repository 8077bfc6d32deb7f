"""Reads the arrays of checkpoints with TensorStore.

Orbax's own reading copies each array several times, at a fraction of the rate of a disk. The arrays lie in a database
of TensorStore, whose files need only be mapped into memory.
"""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorstore as ts

from its_jax.checkpoints.format import WEIGHTS
from its_jax.errors import UserError

READERS = 2  # checkpoints that are read at the same time
AHEAD = 8  # checkpoints after those that the system prefetches, so that the disk is never idle
_PREFETCHED = 2**20  # bytes of a request; Linux prefetches only the beginning of larger ones
_ALIGNMENT = 64  # bytes; JAX uses a NumPy array as its own on a CPU, without a copy, if it begins at a multiple of it
_ARRAY = "/zarr.json"  # the end of the key that describes an array, after its name


def cast_like(array: ts.TensorStore, like: np.ndarray) -> ts.TensorStore:
    """Returns a stored array that is read with the dtype of `like`."""
    return array if array.dtype.numpy_dtype == like.dtype else ts.cast(array, like.dtype.name)


def empty_aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Returns an uninitialized array that JAX uses on a CPU without a copy."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def checkpoint_paths(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints in the folder of a component, in the order of their numbers."""
    with explain_damage(folder / WEIGHTS):
        return sorted((folder / WEIGHTS).iterdir())


def open_arrays(path: pathlib.Path) -> dict[str, ts.TensorStore]:
    """Opens the arrays of a checkpoint without reading them: name -> array."""
    context = ts.Context({"file_io_mode": {"mode": "memmap"}})
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/state/"}}
    keys = ts.KvStore.open(database, context=context).result().list().result()
    names = [key.removesuffix(_ARRAY) for key in map(bytes.decode, keys) if key.endswith(_ARRAY)]
    opening = {
        name: ts.open({"driver": "zarr3", "kvstore": {**database, "path": f"{name}/"}}, context=context, open=True)
        for name in names
    }
    return {name: array.result() for name, array in opening.items()}


def prefetch(*paths: pathlib.Path) -> None:
    """Lets the system read the files of checkpoints ahead, because mapped files are read a few pages at a time."""
    if not hasattr(os, "posix_fadvise"):  # as on macOS
        return
    for file in (file for path in paths for file in path.rglob("*") if file.is_file()):
        with contextlib.suppress(OSError), open(file, "rb") as opened:  # reading reports the error
            for start in range(0, file.stat().st_size, _PREFETCHED):
                os.posix_fadvise(opened.fileno(), start, _PREFETCHED, os.POSIX_FADV_WILLNEED)


@contextlib.contextmanager
def explain_damage(path: pathlib.Path) -> Iterator[None]:
    """Turns TensorStore's errors for damaged files, which have many classes, into a `UserError`."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged; delete {path.parents[1]} and convert again ({reason})") from error
