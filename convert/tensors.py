"""Opens weight files: tensors are read one by one, when they are accessed."""

import contextlib
import functools
import pathlib
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from its_jax.errors import UserError
from its_jax.storage.files import explain_os_errors, read_json

# PyTorch names the function in its error for a pickle that contains more than tensors.
_FOREIGN = re.compile(r"GLOBAL (\S+)")
_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Tensor(NamedTuple):
    """A tensor in a file: the name of its dtype, and a function that reads it."""

    dtype: str
    read: Callable[[], np.ndarray]


class LazyArrays(Mapping[str, np.ndarray]):
    """A mapping of arrays over a mapping of `Tensor`: each access reads the file."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self._tensors = tensors

    def __getitem__(self, key: str) -> np.ndarray:
        return self._tensors[key].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def open_tensors(path: pathlib.Path) -> dict[str, Tensor]:
    """Opens a safetensors file, a PyTorch file (for which PyTorch is needed), or all shards of an index.

    Raises:
      UserError: a file cannot be read, is truncated or damaged, or contains something else; index and shards
        contradict each other.
    """
    kinds = {".safetensors": _open_safetensors, ".json": _open_shards}
    with explain_os_errors(path, "read"):
        return kinds.get(path.suffix, _open_torch)(path)


def _open_shards(path):
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"{path}: expected an index, that is, a weight_map from tensors to files")
    found = {}
    for file in sorted(set(places.values())):
        if "/" in file or not (path.parent / file).is_file():
            raise UserError(f"{path}: its shard {file} is missing beside it")
        for key, tensor in open_tensors(path.parent / file).items():
            if places.get(key) != file:
                raise UserError(f"{path}: does not list tensor {key!r}, which {file} contains")
            found[key] = tensor
    if missing := sorted(places.keys() - found.keys()):
        raise UserError(f"{path}: tensor {missing[0]!r} is not in {places[missing[0]]}, where it should be")
    return found


def _open_safetensors(path):
    """Opens the file again for each tensor, because all that was read of a mapped file stays in memory."""

    def read(key):
        with _mapped(path) as file:
            return file.get_tensor(key)

    with _mapped(path) as file:
        dtypes = {key: file.get_slice(key).get_dtype() for key in file.keys()}
    return {key: Tensor(_SAFETENSORS_DTYPES.get(d, d), functools.partial(read, key)) for key, d in dtypes.items()}


@contextlib.contextmanager
def _mapped(path):
    try:
        with explain_os_errors(path, "read"), safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: truncated, or not a safetensors file ({error})") from error


def _open_torch(path):
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path}: reading this file needs PyTorch; pip install 'its_jax[convert]'") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles that are refused in any case
            # Files from before PyTorch 1.6 are not zip archives and cannot be mapped into memory.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # damaged bytes are instructions, which may fail in any way
        if function := _FOREIGN.search(str(error)):
            raise UserError(
                f"{path}: refused, because it is a program: reading it would call {function[1]}; use a file in "
                "safetensors format"
            ) from error
        reason = str(error).partition("\n")[0].partition(". ")[0].strip("()") or "empty"
        raise UserError(f"{path}: truncated, or not a PyTorch file of plain tensors ({reason})") from error
    if isinstance(state, dict):
        # HiFi-GAN and PyTorch Lightning, which writes the .ckpt files of Stable Diffusion, nest the state dict.
        state = state.get("generator", state.get("state_dict", state))
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path}: expected a state dict, that is, names and tensors only")

    def array(value):
        if value.dtype == torch.bfloat16:  # PyTorch cannot convert it to a NumPy array
            return value.view(torch.int16).numpy().view(jnp.bfloat16)
        return value.numpy()

    def tensor(value):
        return Tensor(str(value.dtype).removeprefix("torch."), lambda: array(value))

    return {key: tensor(value.detach()) for key, value in state.items()}
