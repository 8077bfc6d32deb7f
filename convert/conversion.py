"""A model -> Orbax checkpoints beside its configs, tokenizer and scheduler."""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Sequence

import filelock
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from convert import originals, sources
from convert.lora import Lora
from convert.tensors import Reading
from its_jax.errors import UserError
from its_jax.models import registry, state_dict

log = logging.getLogger(__name__)

METADATA = "its_jax.json"
WEIGHTS = "weights"  # the checkpoints' folder within a part's
FORMAT = 3

# A part is cut into checkpoints of about this many bytes: writing and reading them takes a few times as much memory.
_PIECE = 2**26
_FLOATS = ("bfloat16", "float16", "float32", "float64")


def convert(source: str, out, *, loras: Sequence[str] = (), config_from: str | None = None) -> pathlib.Path:
    """Converts a model; `out` appears when it is whole, or not at all.

    Args:
      source: a folder in diffusers' layout, a hub id, or a single file of Stable Diffusion 1.x, `+LORA@SCALE`
        after it for each LoRA that is merged.
      out: the folder to make. A conversion that is there already is replaced.
      loras: more of them, as `FILE` or `FILE@SCALE`.
      config_from: the folder or hub id whose configs, tokenizer and scheduler go with a single file; None is
        Stable Diffusion 1.5's on the hub.

    Returns:
      `out` as an absolute path. It holds the source's configs, tokenizer and scheduler files, Orbax checkpoints
      `PART/weights/NUMBER` for each part (Flax layout, the dtype of the source; float64 becomes float32), and
      `its_jax.json`: format, source, LoRAs, identity, hash and dtype of each part, size of each file. Parts
      that equal those of a conversion beside `out` are hard links to their files, where the file system can.

    Raises:
      UserError: names the file or tensor that is missing, extra, misshapen, damaged or not finite; or `out`
        is a folder of something else, or cannot be written.
    """
    path, written = originals.locate(source)
    if (path / METADATA).exists():
        raise UserError(f"{source}: is converted already; give the folder or file that it was converted from")
    merged = [*written, *map(Lora.parse, loras)]
    return write(originals.gather(source, path, merged, config_from=config_from), out)


def write(original: originals.Original, out, *, keep=False) -> pathlib.Path:
    """`convert` of a model that is found already; with `keep`, a conversion that is there stays as it is."""
    out = pathlib.Path(out).expanduser().absolute()
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / METADATA).exists()):
        raise UserError(f"{out}: exists and is not a conversion; choose a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(out.with_name(f".{out.name}.lock")):
            if not (keep and (out / METADATA).exists()):
                with _becoming(out) as new:
                    _write(original, new, siblings=sorted(out.parent.glob(f"*/{METADATA}")))
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


def _write(original, new, siblings):
    for name, path in original.plain.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        with sources.reading(path):
            content = path.read_bytes()
        (new / name).write_bytes(content)
    converted = {part: _write_part(original, part, new) for part in original.weights}
    for part, about in converted.items():
        _link_equal(new, part, about, siblings)
    metadata = {
        "format": FORMAT,
        "source": original.name,
        "loras": [
            {"file": str(lora.path), "sha256": _sha256(lora.path), "scale": lora.scale} for lora in original.loras
        ],
        "identity": _identity(new, sorted(original.plain), converted),
        "parts": converted,
        "files": {name: (new / name).stat().st_size for name in sources.file_names(new)},
    }
    (new / METADATA).write_text(json.dumps(metadata, indent=1), encoding="utf-8")


def _write_part(original, part, new):
    """Reads, digests and writes a part, never more of it in memory than a few pieces."""
    name = f"{original.name}: {part}"
    found = original.tensors(part)
    dtype = _dtype(part, original.config(part), found, name)
    module = registry.abstract_module(part, original.config(part), dtype, name=name)
    log.info("converting %s", name)
    digest = hashlib.sha256()
    for number, piece in enumerate(_pieces(state_dict.read_parameters(module, Reading(found), name=name))):
        _update(digest, piece)
        try:
            with _uncompressed():
                ocp.save(new / part / WEIGHTS / f"{number:03}", piece)
        except (ValueError, RuntimeError) as error:  # what TensorStore makes of a full disk
            raise OSError(None, _reason(error), str(new.parent.parent)) from error
    return {"sha256": digest.hexdigest(), "dtype": str(dtype)}


def _uncompressed():
    """Compression saves a twelfth of a model's room, and takes several times as long to undo as the disk to read."""
    context = ocp.Context()
    context.array.saving.use_compression = False
    return context


def _pieces(parameters):
    """Yields dictionaries of consecutive parameters, of `_PIECE` bytes or less, or of one that is larger."""
    piece, size = {}, 0
    for path, value in parameters:
        if piece and size + value.nbytes > _PIECE:
            yield piece
            piece, size = {}, 0
        piece[".".join(map(str, path))] = value
        size += value.nbytes
    yield piece


def _link_equal(new, part, about, siblings):
    """Puts links to an equal part of another conversion in place of the files written: it takes its room once."""
    for metadata in siblings:
        folder, linked = metadata.parent, new / part / "linked"
        if not _has_equal(folder, part, about):
            continue
        try:
            shutil.copytree(folder / part / WEIGHTS, linked, copy_function=os.link)
        except OSError as error:  # another file system, or one without links
            log.debug("%s of %s is stored again (%s)", part, folder, error)
            shutil.rmtree(linked, ignore_errors=True)
            continue
        shutil.rmtree(new / part / WEIGHTS)
        linked.rename(new / part / WEIGHTS)
        return


def _has_equal(folder, part, about):
    """Whether a conversion has an equal part, whose files are all there."""
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        files = {name: size for name, size in metadata["files"].items() if name.startswith(f"{part}/{WEIGHTS}/")}
        equal = metadata["format"] == FORMAT and metadata["parts"].get(part) == about
        return equal and all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _reason(error):
    return " ".join(str(error).split())[:200]


def _dtype(part, raw, found, name):
    """The narrowest dtype that holds all tensors of a part without loss, but for those that are in float32 anyway."""
    for key, tensor in found.items():
        if tensor.dtype not in _FLOATS:
            expected = ", ".join(_FLOATS)
            raise UserError(f"{name}: tensor {key!r} has dtype {tensor.dtype}, expected one of {expected}")
    dtypes = {key: jnp.dtype(tensor.dtype) for key, tensor in found.items()}
    if len(set(dtypes.values())) > 1:
        wide = _wide(part, raw, name)
        dtypes = {key: dtype for key, dtype in dtypes.items() if key not in wide}
    return jnp.result_type(*set(dtypes.values()) or {jnp.float32})


def _wide(part, raw, name):
    """The tensors that a module of 16 bits holds in float32."""
    module = registry.abstract_module(part, raw, jnp.bfloat16, name=name)
    leaves = registry.parameters(module).values()
    return {state_dict.torch_name(path) for path, leaf in leaves if state_dict.array_of(leaf).dtype == jnp.float32}


def _update(digest, arrays):
    """Of sha256 over names, dtypes, shapes and values: equal exactly where the tensors are equal."""
    for key, value in arrays.items():
        digest.update(f"{key} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8))


def _sha256(path):
    with sources.reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(new, plain, converted):
    """Twelve hexadecimal digits over all that decides what the model makes, whatever its files' format."""
    digest = hashlib.sha256(json.dumps(converted, sort_keys=True).encode())
    for name in plain:
        digest.update(name.encode() + b"\0" + (new / name).read_bytes())
    return digest.hexdigest()[:12]
