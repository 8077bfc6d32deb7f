"""A model folder in diffusers' layout -> Orbax checkpoints beside its configs, tokenizer and scheduler."""

import contextlib
import hashlib
import json
import logging
import pathlib
import shutil

import filelock
import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from convert import names, sources, tensors
from its_jax import fields, parts, weights
from its_jax.errors import UserError

log = logging.getLogger(__name__)

METADATA = "its_jax.json"
WEIGHTS = "weights"  # the checkpoint's folder within a part's
FORMAT = 1

_FLOATS = ("bfloat16", "float16", "float32", "float64")


def convert(source: str, out, *, keep=False) -> pathlib.Path:
    """Converts a model; `out` appears when it is whole, or not at all.

    Args:
      source: a folder in diffusers' layout, or a hub id.
      out: the folder to make. A conversion that is there already is replaced.
      keep: leave a conversion that is there already as it is.

    Returns:
      `out` as an absolute path. It holds the source's configs, tokenizer and scheduler files, an Orbax
      checkpoint `PART/weights` for each part (Flax layout, the dtype of the source; float64 becomes float32),
      and `its_jax.json`: format, source, identity, hash and dtype of each part, size of each file.

    Raises:
      UserError: names the file or tensor that is missing, extra, misshapen, damaged or not finite; or `out`
        is a folder of something else, or cannot be written.
    """
    folder = sources.find(source)
    out = pathlib.Path(out).expanduser().absolute()
    layout = sources.layout(sources.file_names(folder), source=source)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / METADATA).exists()):
        raise UserError(f"{out}: exists and is not a conversion; choose a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(out.with_name(f".{out.name}.lock")):
            if not (keep and (out / METADATA).exists()):
                with _becoming(out) as new:
                    _write(source, folder, layout, new)
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}); conversions need about the size "
            "of the model, at --out or where ITS_JAX_CACHE says"
        ) from error
    return out


@contextlib.contextmanager
def _becoming(out):
    """A folder to fill, renamed to `out` at the end. The caller holds the lock: leftovers are nobody's."""
    workspace = out.with_name(f".{out.name}.partial")
    shutil.rmtree(workspace, ignore_errors=True)
    new = workspace / "new"
    new.mkdir(parents=True)
    try:
        yield new
        if out.exists():
            out.rename(workspace / "old")
        new.rename(out)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _write(source, folder, layout, new):
    for name in layout.plain:
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        with sources.reading(folder / name):
            content = (folder / name).read_bytes()
        (new / name).write_bytes(content)
    converted = {part: _write_part(folder, name, new, part, source=source) for part, name in layout.weights.items()}
    metadata = {
        "format": FORMAT,
        "source": source,
        "identity": _identity(new, layout.plain, converted),
        "parts": converted,
        "files": {name: (new / name).stat().st_size for name in sources.file_names(new)},
    }
    (new / METADATA).write_text(json.dumps(metadata, indent=1), encoding="utf-8")


def _write_part(folder, weights_name, new, part, *, source):
    name = f"{source}: {part}"
    found = names.canonical(tensors.open_tensors(folder / weights_name), name=name)
    module = parts.abstract_module(
        part, fields.read_json(folder / part / "config.json"), _common_dtype(found, name), name=name
    )
    log.info("converting %s of %s", weights_name, source)
    module = weights.load_state_dict(module, tensors.Reading(found), sharding=_host(), name=name)
    arrays = {name: np.asarray(weights.array_of(leaf)) for name, (_, leaf) in parts.parameters(module).items()}
    try:
        ocp.save(new / part / WEIGHTS, arrays)
    except (ValueError, RuntimeError) as error:  # what TensorStore makes of a full disk
        raise OSError(None, _reason(error), str(new.parent.parent)) from error
    return {"sha256": _digest(arrays), "dtype": str(next(iter(arrays.values())).dtype)}


def _reason(error):
    return " ".join(str(error).split())[:200]


def _common_dtype(found, name):
    """The narrowest dtype that holds all tensors without loss."""
    for key, tensor in found.items():
        if tensor.dtype not in _FLOATS:
            expected = ", ".join(_FLOATS)
            raise UserError(f"{name}: tensor {key!r} has dtype {tensor.dtype}, expected one of {expected}")
    return jnp.result_type(*{jnp.dtype(tensor.dtype) for tensor in found.values()} or {jnp.float32})


def _host():
    """The host's own device: conversion takes nothing of an accelerator. None where JAX was denied it."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _digest(arrays):
    """sha256 over names, dtypes, shapes and values: equal exactly where the tensors are equal."""
    digest = hashlib.sha256()
    for key, value in arrays.items():
        digest.update(f"{key} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8))
    return digest.hexdigest()


def _identity(new, plain, converted):
    """Twelve hexadecimal digits over all that decides what the model makes, whatever its files' format."""
    digest = hashlib.sha256(json.dumps(converted, sort_keys=True).encode())
    for name in plain:
        digest.update(name.encode() + b"\0" + (new / name).read_bytes())
    return digest.hexdigest()[:12]
