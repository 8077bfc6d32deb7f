"""Conversions that are made once for each source, whatever its path, and found again by its content."""

import hashlib
import json
import logging
import os
import pathlib

from convert import originals, sources
from convert.conversion import FORMAT, METADATA, write
from its_jax.errors import UserError
from its_jax.runtime.cache import cache_folder
from its_jax.storage.files import read_json

log = logging.getLogger(__name__)


def converted(source: str) -> pathlib.Path:
    """The converted folder of a source: itself if it is one already, else a conversion in the cache folder.

    Args:
      source: a converted folder, a folder in diffusers' layout, a hub id, or a single file of Stable Diffusion
        1.x; but for the first, `+LORA@SCALE` may follow, any number of times.
    """
    path, loras = _located(source)
    if (path / METADATA).exists():
        return path
    original = originals.gather(source, path, loras)
    out = cache_folder() / "models" / _content_key(original)
    if not (out / METADATA).exists():
        log.info("converting %s into %s (once; ITS_JAX_CACHE says where)", source, out)
        write(original, out, keep=True)
    return out


def parts_of(source: str) -> list[str]:
    """The names of the parts that a source has, converted or not; nothing is converted yet."""
    path, loras = _located(source)
    if (path / METADATA).exists():
        return list(read_json(path / METADATA).get("parts", {}))
    return list(originals.gather(source, path, loras).weights)


def _located(source):
    path, loras = originals.locate(source)
    if loras and (path / METADATA).exists():
        raise UserError(f"{source}: {path} is converted already; a LoRA is merged when the original is converted")
    return path, loras


def _content_key(original):
    """Hexadecimal digits over names, sizes and contents of the files, and the format of conversions."""
    memo = _Memo(cache_folder() / "digests.json")
    with sources.reading(original.name):
        files = [(name, path.stat().st_size, memo.digest(path)) for name, path in sorted(original.files.items())]
    memo.save()
    return hashlib.sha256(json.dumps([FORMAT, files]).encode()).hexdigest()[:16]


class _Memo:
    """sha256 of files, remembered by path, size and times of change: gigabytes are not read at each start."""

    def __init__(self, path):
        self._path = path
        try:
            self._known = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            self._known = {}
        self._new = False

    def digest(self, file):
        stat = file.stat()
        # A copy may keep the time of its content's change, but not that of the file's own.
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        key = str(file.resolve())
        if self._known.get(key, [])[:-1] != stamp:
            with open(file, "rb") as opened:
                self._known[key] = [*stamp, hashlib.file_digest(opened, "sha256").hexdigest()]
            self._new = True
        return self._known[key][-1]

    def save(self):
        if not self._new:
            return
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self._known))
            partial.replace(self._path)
        except OSError:  # it only saves time; where the conversion cannot be written either, that is reported
            log.debug("cannot write %s", self._path)
