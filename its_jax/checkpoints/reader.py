"""Reads the arrays of checkpoints with TensorStore."""

import contextlib
import math
import os

import numpy as np
import tensorstore as ts

from convert import conversion
from its_jax.errors import UserError

# Checkpoints that are read at once, and how many further ones the system is asked for: so the disk need not wait.
READERS, AHEAD = 2, 8
_ASKED = 2**20  # bytes; of one that asks for more at once Linux gives the beginning only
_ALIGNMENT = 64  # bytes, at multiples of which JAX takes over an array of NumPy's on a CPU, in place of a copy
_ARRAY = "/zarr.json"  # what describes an array, after its name


def cast_like(array, like):
    return array if array.dtype.numpy_dtype == like.dtype else ts.cast(array, like.dtype.name)


def empty_aligned(shape, dtype):
    """An array of NumPy's, not filled yet, that JAX takes over on a CPU."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def checkpoint_paths(folder):
    """Those of a part, in the order of their numbers."""
    with explain_damage(folder / conversion.WEIGHTS):
        return sorted((folder / conversion.WEIGHTS).iterdir())


def open_arrays(path):
    """A checkpoint's arrays, not read yet, by name. Orbax's own reading copies each several times, at a fraction of
    a disk's rate; they lie in a database of TensorStore's, whose files need only be mapped."""
    context = ts.Context({"file_io_mode": {"mode": "memmap"}})
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/state/"}}
    keys = ts.KvStore.open(database, context=context).result().list().result()
    names = [key.removesuffix(_ARRAY) for key in map(bytes.decode, keys) if key.endswith(_ARRAY)]
    opening = {
        name: ts.open({"driver": "zarr3", "kvstore": {**database, "path": f"{name}/"}}, context=context, open=True)
        for name in names
    }
    return {name: array.result() for name, array in opening.items()}


def read_ahead(*paths):
    """Asks the system for the files of checkpoints: those that are mapped come a few pages at a time."""
    if not hasattr(os, "posix_fadvise"):  # as on macOS
        return
    for file in (file for path in paths for file in path.rglob("*") if file.is_file()):
        with contextlib.suppress(OSError), open(file, "rb") as opened:  # reading itself will tell
            for start in range(0, file.stat().st_size, _ASKED):
                os.posix_fadvise(opened.fileno(), start, _ASKED, os.POSIX_FADV_WILLNEED)


@contextlib.contextmanager
def explain_damage(path):
    """What TensorStore makes of damaged files, errors of many classes, becomes a `UserError`."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged; delete {path.parents[1]} and convert again ({reason})") from error
