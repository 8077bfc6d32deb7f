"""Writes samples into a work folder: one folder for each sample, or tar files with an index.

A writer receives a sample as pairs of file name and bytes, the record last, and a sample is finished once its record is
written. Writers survive a kill at any moment: the sample that was being added then counts as missing, and
`remove_leftovers` deletes its remains.
"""

import contextlib
import glob
import io
import itertools
import json
import logging
import os
import tarfile
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.settings.records import RECORD
from its_jax.storage import files

LAYOUTS = ("folders", "shards")
SHARDS = "shards"  # the folder of tar files in a work folder
SHARD_BYTES = 256 * 2**20  # A tar file of this size is followed by another.
_END = b"\0" * 1024  # the end of a tar file


class FolderWriter:
    """A writer of WORKDIR/<id>/<file>, with the audio as WAV."""

    audio_file = "audio.wav"

    def __init__(self, workdir: Path):
        self.workdir = workdir

    def add(self, sample: str, content: Iterable[tuple[str, bytes]]) -> None:
        """Writes each file whole or not at all, the record last. UserError: a file cannot be written."""
        folder = self.workdir / sample
        with files.explain_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)  # A sample that lacks another file is not finished.
        try:
            for name, data in content:
                files.write(folder / name, data)
        except UserError:
            with contextlib.suppress(OSError):  # It is not empty.
                folder.rmdir()
            raise

    def finished(self) -> set[str]:
        """Returns the ids of the finished samples. It warns of records that cannot be read and omits them."""
        if not files.is_local(self.workdir):
            return {path.parent.name for path in self.workdir.glob(f"*/{RECORD}")}
        found = {sample: self._is_finished(sample) for sample in _folders(self.workdir)}
        for sample in (sample for sample, finished in found.items() if finished is None):
            logging.warning("%s/%s/%s: cannot be read; its sample will be regenerated", self.workdir, sample, RECORD)
        return {sample for sample, finished in found.items() if finished}

    def peek(self, samples: Collection[str], count: int) -> list[tuple[dict[str, Any], int]]:
        """Returns the record and the total size in bytes of up to `count` of these finished samples."""
        with contextlib.suppress(ValueError):  # `finished` does not parse records in Google Cloud Storage.
            return [self._peek(sample) for sample in itertools.islice(samples, count)]
        return []

    def _peek(self, sample: str) -> tuple[dict[str, Any], int]:
        folder = self.workdir / sample
        return json.loads((folder / RECORD).read_bytes()), sum(map(files.size, folder.iterdir()))

    def remove_leftovers(self, samples: Iterable[str]) -> None:
        """Removes what a kill left of these samples, and renames records that cannot be read.

        No process may be adding these samples.
        """
        if files.is_local(self.workdir):
            for sample in set(samples).intersection(_folders(self.workdir)):
                files.remove_leftovers(self.workdir / sample)
                if self._is_finished(sample) is None:
                    record = self.workdir / sample / RECORD
                    os.replace(record, f"{record}.unreadable")

    def flush(self) -> None:
        """Does nothing: files are written immediately."""

    close = flush

    def _is_finished(self, sample: str) -> bool | None:
        """Returns whether the record exists, or None if it cannot be read."""
        path = f"{self.workdir}/{sample}/{RECORD}"
        try:
            with open(path, "rb") as file:
                return True if isinstance(json.loads(file.read()), dict) else None
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            return None


class ShardWriter:
    """A writer of WORKDIR/shards/<writer>-00000.tar in the WebDataset convention, with the audio as FLAC.

    A file is named <id>.<file>, and the record, the last, is <id>.json. The index <writer>-00000.jsonl has a line for
    each sample, with its record and with position and length of each file in the tar file. Each writer has its own tar
    files. In Google Cloud Storage, where files cannot grow, each `flush` creates a new one.
    """

    audio_file = "audio.flac"

    def __init__(self, workdir: Path, writer: str):
        self.workdir, self.folder, self.writer = workdir, workdir / SHARDS, writer
        self._adding = threading.Lock()
        self._path: Any = None
        self._tar: Any = None
        self._index: Any = None

    def add(self, sample: str, content: Iterable[tuple[str, bytes]]) -> None:
        """Appends a sample. UserError: it cannot be written."""
        content = list(content)
        with self._adding, files.explain_os_errors(self.folder):
            if self._tar is None or self._end >= SHARD_BYTES:
                self.close()
                self._open()
            try:
                self._append(sample, content)
            except OSError:
                # Neither files nor buffers may keep a part of it, because the next sample begins at the same position.
                self._index.truncate(self._index_end)
                self._tar.truncate(self._end)
                raise

    def finished(self) -> set[str]:
        """Returns the ids of the samples that any writer has added."""
        return {entry["id"] for index in indices(self.workdir) for entry in entries(index, warn=True)}

    def peek(self, samples: Collection[str], count: int) -> list[tuple[dict[str, Any], int]]:
        """Returns the record and the total size in bytes of up to `count` of these finished samples."""
        every = (entry for index in indices(self.workdir) for entry in entries(index) if entry["id"] in samples)
        return [
            (entry["record"], sum(size for _, size in entry["files"].values()))
            for entry in itertools.islice(every, count)
        ]

    def remove_leftovers(self, samples: Iterable[str] = ()) -> None:
        """Truncates what a kill left at the end of this writer's files, and moves unreadable lines out of the indices.

        It does so only before the writer adds the first sample.
        """
        if self._tar is not None or not files.is_local(self.workdir):
            return
        for index in self.folder.glob(f"{glob.escape(self.writer)}-*.jsonl"):
            lines = index.read_bytes()
            os.truncate(index, lines.rfind(b"\n") + 1)
            if unreadable := [line for line in lines.splitlines(keepends=True)[:-1] if _entry(line) is None]:
                files.write(f"{index}.unreadable", b"".join(unreadable))
                files.write(index, b"".join(line for line in lines.splitlines(keepends=True) if _entry(line)))
            end = _end(index)
            if index.with_suffix(".tar").exists():
                with open(index.with_suffix(".tar"), "r+b") as tar:
                    tar.truncate(end)
                    tar.seek(end)
                    tar.write(_END)

    def flush(self) -> None:
        """Makes sure that all samples added so far are stored. To be called after each batch."""
        if not files.is_local(self.workdir):
            with self._adding:
                self.close()

    def close(self) -> None:
        """Completes and closes the current tar file."""
        if self._tar is None:
            return
        if not files.is_local(self.workdir):
            files.write(self._path, self._tar.getvalue())
            files.write(self._path.with_suffix(".jsonl"), self._index.getvalue())
        self._tar.close()
        self._index.close()
        self._tar = self._index = None

    def _open(self) -> None:
        """Opens the last tar file of this writer if it has room, and otherwise a new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        existing = sorted(self.folder.glob(f"{glob.escape(self.writer)}-*.jsonl"))
        number = int(existing[-1].stem.rpartition("-")[2]) if existing else -1
        last = self.folder / f"{self.writer}-{number:05d}.tar"
        local = files.is_local(self.workdir)
        if not (local and last.exists() and last.stat().st_size < SHARD_BYTES):
            last = self.folder / f"{self.writer}-{number + 1:05d}.tar"
        self._path = last
        if not local:
            self._tar, self._index, self._end, self._index_end = io.BytesIO(), io.BytesIO(), 0, 0
            return
        last.touch()
        self._tar = open(last, "r+b", buffering=0)
        self._index = open(last.with_suffix(".jsonl"), "a+b", buffering=0)
        self._end = _end(last.with_suffix(".jsonl"))
        self._index_end = self._index.seek(0, os.SEEK_END)

    def _append(self, sample: str, content: Sequence[tuple[str, bytes]]) -> None:
        block, positions = bytearray(), {}
        for name, data in content:
            header = tarfile.TarInfo(f"{sample}.{_member(name)}")
            header.size = len(data)
            block += header.tobuf(tarfile.PAX_FORMAT)
            positions[name] = self._end + len(block), len(data)
            block += data + b"\0" * (-len(data) % tarfile.BLOCKSIZE)
        end, record = self._end + len(block), json.loads(content[-1][1])
        line = json.dumps({"id": sample, "end": end, "files": positions, "record": record}).encode() + b"\n"
        _write(self._tar, self._end, bytes(block) + _END)
        _write(self._index, self._index_end, line)
        self._end, self._index_end = end, self._index_end + len(line)


def open_writer(layout: str, workdir: Path, writer: str = "0-of-1") -> FolderWriter | ShardWriter:
    """Opens a work folder for writing.

    Args:
      layout: one of `LAYOUTS`.
      writer: a name that differs between processes that add to one work folder at the same time.
    """
    return FolderWriter(workdir) if layout == "folders" else ShardWriter(workdir, writer)


def writer_names(layout: str, workdir: Path) -> set[str]:
    """Returns the names of the writers that have added to the tar files of a work folder."""
    return {index.stem.rpartition("-")[0] for index in indices(workdir)} if layout == "shards" else set()


def indices(workdir: Path) -> list[Path]:
    """Returns the paths of the indices of the tar files in a work folder."""
    return sorted((workdir / SHARDS).glob("*.jsonl"))


def entries(index: Path, warn: bool = False) -> Iterator[dict[str, Any]]:
    """Yields the entries of an index: `id`, `end`, `files` (name -> position and length in the tar file), `record`.

    Lines that cannot be read are omitted, with a warning if `warn`.
    """
    with index.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return  # It is being written, or a kill left it.
            if (entry := _entry(line)) is not None:
                yield entry
            elif warn:
                logging.warning("%s, line %d: cannot be read; its sample will be regenerated", index, number)


def _end(index: Path) -> int:
    """Returns the position in the tar file at which the next sample begins."""
    return max((entry["end"] for entry in entries(index)), default=0)


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        entry["id"], entry["end"], entry["files"], entry["record"]
    except (ValueError, TypeError, KeyError):
        return None
    return entry


def _member(name: str) -> str:
    """Returns the name of a file in the tar file. WebDataset takes the part after the first dot for its kind."""
    return "json" if name == RECORD else name


def _write(file: Any, position: int, data: bytes) -> None:
    file.seek(position)
    left = memoryview(data)
    while len(left):
        left = left[file.write(left) :]
    if hasattr(file, "name"):  # It is not in memory.
        os.fsync(file.fileno())


def _folders(workdir: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(workdir) as found:
        return [entry.name for entry in found if entry.is_dir() and not entry.name.startswith(".")]
    return []
