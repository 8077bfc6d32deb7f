"""Where samples are kept: a folder for each, or tar files with an index. A sample is there once its record is.

Both layouts add a sample as (file name, bytes) pairs of which the last is the record, name the finished ones, and
survive a kill at any moment: what was being added then is not there, and its remains go when the folder is next opened.
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
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.settings.records import RECORD
from its_jax.storage import files

LAYOUTS = ("folders", "shards")
SHARDS = "shards"  # the folder of tar files in a work folder
SHARD_BYTES = 256 * 2**20  # a tar file that has grown so large is followed by another
_END = b"\0" * 1024  # of a tar file


class FolderWriter:
    """WORKDIR/<id>/<file>, with the sound as WAV."""

    sound = "audio.wav"

    def __init__(self, workdir: Path):
        self.workdir = workdir

    def add(self, sample: str, content: Iterable[tuple[str, bytes]]) -> None:
        """Writes each file whole or not at all, the record last. UserError: cannot write."""
        folder = self.workdir / sample
        with files.explain_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)  # of a folder that lacks another file: it is not done any more
        try:
            for name, data in content:
                files.write(folder / name, data)
        except UserError:
            with contextlib.suppress(OSError):  # it holds files
                folder.rmdir()
            raise

    def finished(self) -> set[str]:
        """Ids of the samples that are there; a record that cannot be read gets a warning, and does not count."""
        if not files.is_local(self.workdir):
            return {path.parent.name for path in self.workdir.glob(f"*/{RECORD}")}
        found = {sample: self._is_finished(sample) for sample in _folders(self.workdir)}
        for sample in (sample for sample, finished in found.items() if finished is None):
            logging.warning("%s/%s/%s: cannot be read; its sample will be made again", self.workdir, sample, RECORD)
        return {sample for sample, finished in found.items() if finished}

    def peek(self, samples: Collection[str], count: int) -> list[tuple[dict[str, Any], int]]:
        """Record, and bytes of all files, of a few of these."""
        with contextlib.suppress(ValueError):  # in Google Cloud Storage nobody has looked into them before
            return [self._look(sample) for sample in itertools.islice(samples, count)]
        return []

    def _look(self, sample):
        folder = self.workdir / sample
        return json.loads((folder / RECORD).read_bytes()), sum(map(files.size, folder.iterdir()))

    def clean(self, samples: Iterable[str]) -> None:
        """Removes what a kill left of these samples, which nobody is adding now; sets aside what cannot be read."""
        if files.is_local(self.workdir):
            for sample in set(samples).intersection(_folders(self.workdir)):
                files.remove_leftovers(self.workdir / sample)
                if self._is_finished(sample) is None:
                    record = self.workdir / sample / RECORD
                    os.replace(record, f"{record}.unreadable")

    def flush(self) -> None:
        """Nothing waits here."""

    close = flush

    def _is_finished(self, sample):
        """None: its record is there, and cannot be read."""
        path = f"{self.workdir}/{sample}/{RECORD}"
        try:
            with open(path, "rb") as file:
                return True if isinstance(json.loads(file.read()), dict) else None
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            return None


class ShardWriter:
    """WORKDIR/shards/<writer>-00000.tar in the WebDataset convention, the sound as FLAC, and <writer>-00000.jsonl
    beside it: a line for each sample with its record, and place and length of each file in the tar.

    A file is named <id>.<file>, with the record last as <id>.json. Each writer has tar files of its own. In Google
    Cloud Storage, where nothing can be appended, each `flush` makes a new one.
    """

    sound = "audio.flac"

    def __init__(self, workdir: Path, writer: str):
        self.workdir, self.folder, self.writer = workdir, workdir / SHARDS, writer
        self._adding = threading.Lock()
        self._path: Any = None
        self._tar: Any = None
        self._index: Any = None

    def add(self, sample: str, content: Iterable[tuple[str, bytes]]) -> None:
        """Appends a sample. UserError: cannot write."""
        content = list(content)
        with self._adding, files.explain_os_errors(self.folder):
            if self._tar is None or self._end >= SHARD_BYTES:
                self.close()
                self._open()
            try:
                self._append(sample, content)
            except OSError:
                # Nothing of it stays, neither in the files nor in a buffer: the next one begins at the same place.
                self._index.truncate(self._index_end)
                self._tar.truncate(self._end)
                raise

    def finished(self) -> set[str]:
        """Ids of the samples that any writer has added."""
        return {entry["id"] for index in indices(self.workdir) for entry in entries(index, warn=True)}

    def peek(self, samples: Collection[str], count: int) -> list[tuple[dict[str, Any], int]]:
        """Record, and bytes of all files, of a few of these."""
        every = (entry for index in indices(self.workdir) for entry in entries(index) if entry["id"] in samples)
        return [
            (entry["record"], sum(size for _, size in entry["files"].values()))
            for entry in itertools.islice(every, count)
        ]

    def clean(self, samples: Iterable[str] = ()) -> None:
        """Cuts off what a kill left at the end of this writer's files, before it adds to them, and sets aside lines of
        their indices that cannot be read."""
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
        """To be called after each batch: from here on, its samples are there wherever they are kept."""
        if not files.is_local(self.workdir):
            with self._adding:
                self.close()

    def close(self) -> None:
        if self._tar is None:
            return
        if not files.is_local(self.workdir):
            files.write(self._path, self._tar.getvalue())
            files.write(self._path.with_suffix(".jsonl"), self._index.getvalue())
        self._tar.close()
        self._index.close()
        self._tar = self._index = None

    def _open(self):
        """The last tar file of this writer if it has room, else a new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        taken = sorted(self.folder.glob(f"{glob.escape(self.writer)}-*.jsonl"))
        number = int(taken[-1].stem.rpartition("-")[2]) if taken else -1
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

    def _append(self, sample, content):
        block, places = bytearray(), {}
        for name, data in content:
            header = tarfile.TarInfo(f"{sample}.{_member(name)}")
            header.size = len(data)
            block += header.tobuf(tarfile.PAX_FORMAT)
            places[name] = self._end + len(block), len(data)
            block += data + b"\0" * (-len(data) % tarfile.BLOCKSIZE)
        end, record = self._end + len(block), json.loads(content[-1][1])
        line = json.dumps({"id": sample, "end": end, "files": places, "record": record}).encode() + b"\n"
        _write(self._tar, self._end, bytes(block) + _END)
        _write(self._index, self._index_end, line)
        self._end, self._index_end = end, self._index_end + len(line)


def open_writer(layout: str, workdir: Path, writer: str = "0-of-1") -> FolderWriter | ShardWriter:
    """`writer` tells apart who adds to one work folder at the same time."""
    return FolderWriter(workdir) if layout == "folders" else ShardWriter(workdir, writer)


def writer_names(layout: str, workdir: Path) -> set[str]:
    """Who has added to the tar files of a work folder."""
    return {index.stem.rpartition("-")[0] for index in indices(workdir)} if layout == "shards" else set()


def indices(workdir: Path) -> list[Path]:
    """Of the tar files in a work folder."""
    return sorted((workdir / SHARDS).glob("*.jsonl"))


def entries(index: Path, warn: bool = False) -> Iterator[dict[str, Any]]:
    """`id`, `files` (name -> place, length in the tar), `record`; what cannot be read is left out."""
    with index.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return  # being written, or left by a kill
            if (entry := _entry(line)) is not None:
                yield entry
            elif warn:
                logging.warning("%s, line %d: cannot be read; its sample will be made again", index, number)


def _end(index):
    """Where the next sample begins in the tar file."""
    return max((entry["end"] for entry in entries(index)), default=0)


def _entry(line):
    try:
        entry = json.loads(line)
        entry["id"], entry["end"], entry["files"], entry["record"]
    except (ValueError, TypeError, KeyError):
        return None
    return entry


def _member(name):
    """WebDataset takes what follows the first dot for the kind of a file."""
    return "json" if name == RECORD else name


def _write(file, at, data):
    file.seek(at)
    left = memoryview(data)
    while len(left):
        left = left[file.write(left) :]
    if hasattr(file, "name"):  # not in memory
        os.fsync(file.fileno())


def _folders(workdir):
    with contextlib.suppress(FileNotFoundError), os.scandir(workdir) as found:
        return [entry.name for entry in found if entry.is_dir() and not entry.name.startswith(".")]
    return []
