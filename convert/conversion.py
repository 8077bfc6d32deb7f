"""Converts a model: writes its weights as Orbax checkpoints, beside its configs, tokenizer and scheduler."""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import filelock
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from convert import originals
from convert.hub import file_names
from convert.lora import Lora
from convert.tensors import LazyArrays
from its_jax.checkpoints.format import FORMAT, METADATA, WEIGHTS
from its_jax.errors import UserError
from its_jax.models import registry, state_dict
from its_jax.storage.files import explain_os_errors

log = logging.getLogger(__name__)

# The size of a checkpoint, a piece of a component. Writing and reading it takes a few times as much memory.
PIECE_BYTES = 2**26
_FLOATS = ("bfloat16", "float16", "float32", "float64")


def convert(
    source: str, out: str | os.PathLike, *, loras: Sequence[str] = (), config_from: str | None = None
) -> pathlib.Path:
    """Converts a model; `out` appears when it is complete, or not at all.

    Args:
      source: a folder in the layout of diffusers or transformers, a hub id, or a single file of Stable Diffusion 1.x,
        followed by `+LORA@SCALE` for each LoRA to merge.
      out: the folder to make. An earlier conversion is replaced.
      loras: further LoRAs, as `FILE` or `FILE@SCALE`.
      config_from: the folder or hub id whose configs, tokenizer and scheduler a single file uses; None is Stable
        Diffusion 1.5 on the hub.

    Returns:
      `out` as an absolute path. It contains the source's configs, tokenizer and scheduler files, Orbax checkpoints
      `COMPONENT/weights/NUMBER` for each component (Flax layout, the dtype of the source; float64 becomes float32), and
      `its_jax.json`: format, source, LoRAs, identity, hash and dtype of each component, size of each file. Components
      that equal those of a conversion beside `out` are hard links to their files, where the file system has links.

    Raises:
      UserError: a file or tensor, which it names, is missing, extra, damaged or not finite, or has another shape; or
        `out` is a folder of something else, or cannot be written.
    """
    path, in_source = originals.locate(source)
    if (path / METADATA).exists():
        raise UserError(f"{source}: is converted already; give the folder or file that it was converted from")
    merged = [*in_source, *map(Lora.parse, loras)]
    return write(originals.gather(source, path, merged, config_from=config_from), out)


def write(
    original: originals.Original,
    out: str | os.PathLike,
    *,
    keep: bool = False,
    piece_bytes: int = PIECE_BYTES,
    save: Callable[[pathlib.Path, dict[str, np.ndarray]], Any] = ocp.save,
) -> pathlib.Path:
    """Writes the conversion of a model whose files are known; see `convert`.

    Args:
      keep: leaves an existing conversion as it is.
      piece_bytes: the largest size of a checkpoint with more than one array.
      save: writes a checkpoint.
    """
    out = pathlib.Path(out).expanduser().absolute()
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / METADATA).exists()):
        raise UserError(f"{out}: exists and is not a conversion; choose a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(out.with_name(f".{out.name}.lock")):
            if not (keep and (out / METADATA).exists()):
                with _replacing(out) as new:
                    siblings = sorted(out.parent.glob(f"*/{METADATA}"))
                    _write_files(original, new, siblings, piece_bytes, save)
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}); a conversion needs about the "
            "size of the model, in the folder of --out or ITS_JAX_CACHE"
        ) from error
    return out


@contextlib.contextmanager
def _replacing(out):
    """Yields a new folder, renamed to `out` at the end. The caller holds the lock, so leftovers belong to nobody."""
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


def _write_files(original, new, siblings, piece_bytes, save):
    for name, path in original.plain.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        with explain_os_errors(path, "read"):
            content = path.read_bytes()
        (new / name).write_bytes(content)
    written = {
        component: _write_component(original, component, new, piece_bytes, save) for component in original.weights
    }
    for component, about in written.items():
        _link_equal(new, component, about, siblings)
    metadata = {
        "format": FORMAT,
        "source": original.name,
        "loras": [
            {"file": str(lora.path), "sha256": _sha256(lora.path), "scale": lora.scale} for lora in original.loras
        ],
        "identity": _identity(new, sorted(original.plain), written),
        "parts": written,
        "files": {name: (new / name).stat().st_size for name in file_names(new)},
    }
    (new / METADATA).write_text(json.dumps(metadata, indent=1), encoding="utf-8")


def _write_component(original, component, new, piece_bytes, save):
    """Reads, hashes and writes a component, of which only a few pieces are in memory at a time."""
    name = f"{original.name}: {component}"
    tensors = original.tensors(component)
    dtype = _common_dtype(component, original.config(component), tensors, name)
    module = registry.abstract_module(component, original.config(component), dtype, name=name)
    log.info("converting %s", name)
    digest = hashlib.sha256()
    parameters = state_dict.read_parameters(module, LazyArrays(tensors), name=name)
    for number, piece in enumerate(_pieces(parameters, piece_bytes)):
        _update(digest, piece)
        try:
            with _uncompressed():
                save(new / component / WEIGHTS / f"{number:03}", piece)
        except (ValueError, RuntimeError) as error:  # TensorStore's errors for a full disk
            reason = " ".join(str(error).split())[-200:]  # the end says why, after several long paths
            raise OSError(None, reason, str(new.parent.parent)) from error
    return {"sha256": digest.hexdigest(), "dtype": str(dtype)}


def _uncompressed():
    """Returns an Orbax context without compression, which would save a twelfth of the disk space, but take several
    times as long to undo as the disk to read."""
    context = ocp.Context()
    context.array.saving.use_compression = False
    return context


def _pieces(parameters: Iterable[tuple[Any, np.ndarray]], most: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields dictionaries of consecutive parameters with at most this many bytes, or of one larger parameter."""
    piece: dict[str, np.ndarray] = {}
    size = 0
    for path, value in parameters:
        if piece and size + value.nbytes > most:
            yield piece
            piece, size = {}, 0
        piece[".".join(map(str, path))] = value
        size += value.nbytes
    yield piece


def _link_equal(new, component, about, siblings):
    """Replaces the files of a component by links to those of an equal component in another conversion, if any."""
    for metadata in siblings:
        folder, linked = metadata.parent, new / component / "linked"
        if not _has_equal(folder, component, about):
            continue
        try:
            shutil.copytree(folder / component / WEIGHTS, linked, copy_function=os.link)
        except OSError as error:  # another file system, or one without links
            log.debug("%s of %s is stored again (%s)", component, folder, error)
            shutil.rmtree(linked, ignore_errors=True)
            continue
        shutil.rmtree(new / component / WEIGHTS)
        linked.rename(new / component / WEIGHTS)
        return


def _has_equal(folder, component, about):
    """Returns whether a conversion has an equal component and all files of it."""
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        prefix = f"{component}/{WEIGHTS}/"
        files = {name: size for name, size in metadata["files"].items() if name.startswith(prefix)}
        equal = metadata["format"] == FORMAT and metadata["parts"].get(component) == about
        return equal and all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _common_dtype(component, raw, tensors, name):
    """Returns the narrowest dtype that represents all tensors exactly, except those that modules keep in float32."""
    for key, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            expected = ", ".join(_FLOATS)
            raise UserError(f"{name}: tensor {key!r} has dtype {tensor.dtype}, expected one of {expected}")
    dtypes = {key: jnp.dtype(tensor.dtype) for key, tensor in tensors.items()}
    if len(set(dtypes.values())) > 1:
        wide = _wide_tensors(component, raw, name)
        dtypes = {key: dtype for key, dtype in dtypes.items() if key not in wide}
    return jnp.result_type(*set(dtypes.values()) or {jnp.float32})


def _wide_tensors(component, raw, name):
    """Returns the names of the tensors that a module of 16 bits keeps in float32."""
    module = registry.abstract_module(component, raw, jnp.bfloat16, name=name)
    leaves = registry.named_parameters(module).values()
    return {state_dict.torch_name(path) for path, leaf in leaves if state_dict.get_array(leaf).dtype == jnp.float32}


def _update(digest, arrays):
    """Adds names, dtypes, shapes and values to a digest, so that it is equal only for equal tensors."""
    for key, value in arrays.items():
        digest.update(f"{key} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8))


def _sha256(path):
    with explain_os_errors(path, "read"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(new, plain, written):
    """Returns twelve hexadecimal digits over all that determines the results, whatever the format of its files."""
    digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode())
    for name in plain:
        digest.update(name.encode() + b"\0" + (new / name).read_bytes())
    return digest.hexdigest()[:12]
