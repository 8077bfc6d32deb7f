"""Keeps one conversion of each source in the cache folder, and finds it again by content, whatever the path."""

import hashlib
import json
import logging
import os
import pathlib

from convert import originals
from convert.conversion import write
from convert.lora import Lora
from its_jax.checkpoints.format import FORMAT, METADATA
from its_jax.errors import UserError
from its_jax.runtime.cache import cache_folder
from its_jax.storage.files import explain_os_errors, read_json

log = logging.getLogger(__name__)


def converted(source: str) -> pathlib.Path:
    """Returns the converted folder of a source: the source itself, or a conversion in the cache folder.

    Args:
      source: a converted folder, a folder in the layout of diffusers or transformers, a hub id, or a single file of
        Stable Diffusion 1.x. Except for the first, `+LORA@SCALE` may follow any number of times.

    Raises:
      UserError: the source does not exist, is damaged, or cannot be converted.
    """
    path, loras = _locate(source)
    if (path / METADATA).exists():
        return path
    original = originals.gather(source, path, loras)
    out = cache_folder() / "models" / content_key(original)
    if not (out / METADATA).exists():
        log.info("converting %s into %s (once; ITS_JAX_CACHE sets the cache folder)", source, out)
        write(original, out, keep=True)
    return out


def list_components(source: str) -> list[str]:
    """Returns the names of the components of a source, without converting it."""
    path, loras = _locate(source)
    if (path / METADATA).exists():
        return list(read_json(path / METADATA).get("parts", {}))
    return list(originals.gather(source, path, loras).weights)


def content_key(original: originals.Original) -> str:
    """Returns hexadecimal digits over names, sizes and contents of a model's files, and the format of conversions."""
    digests = _FileDigests(cache_folder() / "digests.json")
    files = [(name, *digests.size_and_sha256(path)) for name, path in sorted(original.files.items())]
    digests.save()
    return hashlib.sha256(json.dumps([FORMAT, files]).encode()).hexdigest()[:16]


def _locate(source: str) -> tuple[pathlib.Path, list[Lora]]:
    path, loras = originals.locate(source)
    if loras and (path / METADATA).exists():
        raise UserError(f"{source}: {path} is converted already; a LoRA is merged when the original is converted")
    return path, loras


class _FileDigests:
    """Digests of files, remembered by path, size and times of change, so that gigabytes are not read at each start."""

    def __init__(self, path):
        self._path = path
        try:
            self._known = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            self._known = {}
        self._changed = False

    def size_and_sha256(self, file):
        """Returns the bytes and the sha256 of a file. UserError: it cannot be read."""
        with explain_os_errors(file, "read"):
            stat = file.stat()
            # A copy may keep the time when its content changed, but not the time when the file itself did.
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            key = str(file.resolve())
            if self._known.get(key, [])[:-1] != stamp:
                with open(file, "rb") as opened:
                    self._known[key] = [*stamp, hashlib.file_digest(opened, "sha256").hexdigest()]
                self._changed = True
        return stat.st_size, self._known[key][-1]

    def save(self):
        """Writes the digests. An error is not reported, because they only save time."""
        if not self._changed:
            return
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self._known))
            partial.replace(self._path)
        except OSError:
            log.debug("cannot write %s", self._path)
