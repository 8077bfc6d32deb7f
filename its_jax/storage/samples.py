"""Reads the finished samples of a work folder, in the same way from folders and from tar files.

from its_jax.storage.samples import open_samples

for sample in open_samples("sweep").values():
    print(sample.id, sample.record["image"]["prompt"])
    image, (waveform, sampling_rate) = sample.read_image("image"), sample.read_audio()
"""

import contextlib
import dataclasses
import glob
import io
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from its_jax import deprecated
from its_jax.errors import UserError
from its_jax.settings.records import RECORD, VIDEO, recorded_image_terms
from its_jax.settings.schema import TERMS
from its_jax.storage import files as storage_files
from its_jax.storage import writers
from its_jax.storage.gain import recorded_gain_db, restore_raw

AUDIO_FILES = (writers.FolderWriter.audio_file, writers.ShardWriter.audio_file)
COLORS = "colors"  # the folder for colorings of samples in tar files
VIDEOS = "videos"  # the folder for videos of samples in tar files, to which no file is added later
_COLORING_RECORDS = "color_*.json"  # The record of a coloring is written last.


@deprecated.renamed_attributes(
    place="path",
    sound="audio_file",
    pictures="image_names",
    picture="read_image",
    waveform="read_audio",
    colors="colorings",
    color_record="coloring_record",
    color_records="coloring_records",
)
@dataclasses.dataclass(frozen=True)
class Sample:
    """One finished sample. Its files are read when a method needs them.

    Attributes:
      id: of its settings. record: all its settings, versions, seconds and scores. files: the names of its files.
      path: of its folder, or of the tar file that holds it. colorings: the names of its colored images, see
        `its_jax.colorize`.
    """

    id: str
    record: Mapping[str, Any]
    files: tuple[str, ...]
    path: Path
    _read: Callable[[str], bytes] = dataclasses.field(repr=False)
    colorings: tuple[str, ...] = ()

    @property
    def is_in_tar(self) -> bool:
        """Returns whether the sample lies in a tar file, rather than in a folder."""
        return self.path.suffix == ".tar"

    @property
    def audio_file(self) -> str:
        """Returns the name of its audio file."""
        return next(name for name in AUDIO_FILES if name in self.files)

    @property
    def gain_db(self) -> float:
        """Returns the gain in dB at which its audio was written; 0 is the raw scale."""
        return recorded_gain_db(self.record)

    @property
    def image_names(self) -> list[str]:
        """Returns the names that `read_image` accepts: its terms, and `spectrogram` last."""
        return [name.removesuffix(".png") for name in self.files if name.endswith(".png")]

    def read(self, name: str) -> bytes:
        """Returns the content of one of `files`, or of a coloring's files. UserError: it cannot be read."""
        with self._explain_unreadable(name):
            return self._read(name)

    def read_image(self, name: str = "spectrogram") -> np.ndarray:
        """Reads one of `image_names` or `colorings`.

        Returns:
          float32 `[h, w]` (gray) or `[h, w, 3]` in [0, 1].

        Raises:
          UserError: it cannot be read.
        """
        file = f"{name}.png"
        with self._explain_unreadable(file), Image.open(io.BytesIO(self.read(file))) as image:
            return np.asarray(image, np.float32) / 255

    def read_audio(self) -> tuple[np.ndarray, int]:
        """Reads the waveform at its raw scale, float32 `[samples]` in [-1, 1], and its sampling rate in Hz.

        Raises:
          UserError: it cannot be read.
        """
        with self._explain_unreadable(self.audio_file):
            content = self.read(self.audio_file)
            if content[:4] == b"RIFF" and len(content) < int.from_bytes(content[4:8], "little") + 8:
                raise OSError("it is cut short")  # soundfile does not report this.
            waveform, sampling_rate = soundfile.read(io.BytesIO(content), dtype="float32")
            return restore_raw(waveform, self.record), sampling_rate

    def coloring_record(self, name: str) -> dict[str, Any]:
        """Returns the record of one of `colorings`, with its settings under `colorize`.

        Raises:
          UserError: it cannot be read.
        """
        try:
            record = json.loads(self.read(f"{name}.json"))
            record["colorize"]["prompt"]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{colorings_folder(self) / name}.json: is not the record of a colored image") from error
        return record

    def coloring_records(self) -> dict[str, dict[str, Any]]:
        """Returns the records of all `colorings` by name. It warns of those that cannot be read and omits them."""
        records = {}
        for name in self.colorings:
            try:
                records[name] = self.coloring_record(name)
            except UserError as error:
                logging.warning("%s; the image is left out", error)
        return records

    @contextlib.contextmanager
    def _explain_unreadable(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, soundfile.LibsndfileError) as error:
            raise UserError(
                f"{self.path}: {name} of {self.id} cannot be read ({storage_files.describe(error)})"
            ) from error


class Samples(Mapping[str, Sample]):
    """The finished samples of a work folder by id, in the order of their ids.

    Attributes:
      faults: one message for each record that was left out because it cannot be read.
    """

    def __init__(self, by_id: dict[str, Sample], faults: Sequence[str] = ()):
        self._by_id, self.faults = dict(sorted(by_id.items())), tuple(faults)

    def __getitem__(self, sample_id: str) -> Sample:
        return self._by_id[sample_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)


def open_samples(workdir: str | Path) -> Samples:
    """Lists all finished samples of a work folder, whichever layout it has.

    Raises:
      UserError: the folder does not exist.
    """
    workdir = storage_files.to_path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder; give one that its_jax.sample or its_jax.sweep wrote to")
    faults: list[str] = []
    found = {sample.id: sample for sample in (*_in_shards(workdir, faults), *_in_folders(workdir, faults))}
    _warn(faults)
    return Samples(found, faults)


def open_sample(path: str | Path) -> Sample:
    """Opens the sample WORKDIR/ID, whichever layout the work folder has.

    Raises:
      UserError: it does not exist or is not finished.
    """
    path = storage_files.to_path(path)
    faults: list[str] = []
    in_folder = _in_folders(path.parent, faults, glob.escape(path.name))
    in_shards = (sample for sample in _in_shards(path.parent, faults) if sample.id == path.name)
    found = next(itertools.chain(in_folder, in_shards), None)
    _warn(faults)
    if found is None:
        raise UserError(f"{path}: not a finished sample; give WORKDIR/ID, with an id that is in WORKDIR")
    return found


def _warn(faults: Sequence[str]) -> None:
    for fault in faults:
        logging.warning("%s; it is left out", fault)


def get_setting(record: Mapping[str, Any], name: str) -> Any:
    """Returns a sample's setting by its full name, such as `image.weight`. UserError: it has no such setting."""
    value = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(f"--by={name}: the samples have no such setting; take one as method or image.weight")
        value = value[part]
    if isinstance(value, Mapping):
        raise UserError(f"--by={name}: is a group of settings; take one of them, as {name}.{next(iter(value))}")
    return value


def video_path(sample: Sample, coloring: str = "") -> Path:
    """Returns where the video of a sample, or of one of its colorings, is or will be."""
    if coloring:
        return colorings_folder(sample) / f"{coloring}.mp4"
    return sample.path.parents[1] / VIDEOS / f"{sample.id}.mp4" if sample.is_in_tar else sample.path / VIDEO


def colorings_folder(sample: Sample) -> Path:
    """Returns where a sample's colorings are or will be."""
    return sample.path.parents[1] / COLORS / sample.id if sample.is_in_tar else sample.path


def _in_folders(workdir: Path, faults: list[str], pattern: str = "*") -> Iterator[Sample]:
    """Yields the samples that have folders of their own, and adds what is wrong with others to `faults`."""
    colorings = _colorings(workdir, pattern)
    with_video = {path.parent.name for path in workdir.glob(f"{pattern}/{VIDEO}")}
    for path in workdir.glob(f"{pattern}/{RECORD}"):
        folder = path.parent
        try:
            record = json.loads(path.read_bytes())
            _check(record)
            images = [f"{term}.png" for term in (*recorded_image_terms(record), "spectrogram")]
        except (OSError, ValueError) as error:
            faults.append(f"{path}: cannot be read ({storage_files.describe(error)})")
            continue
        except (AttributeError, KeyError, TypeError):
            faults.append(f"{path}: is not the record of a sample of ours")
            continue
        names = (*images, writers.FolderWriter.audio_file, *[VIDEO] * (folder.name in with_video), RECORD)
        read = lambda name, folder=folder: (folder / name).read_bytes()  # noqa: E731
        yield Sample(folder.name, record, names, folder, read, colorings.get(folder.name, ()))


def _in_shards(workdir: Path, faults: list[str]) -> Iterator[Sample]:
    """Yields the samples in tar files, and adds what is wrong with others to `faults`."""
    colorings = _colorings(workdir / COLORS)
    for index in writers.indices(workdir):
        tar = index.with_suffix(".tar")
        for entry in writers.entries(index):
            try:
                _check(entry["record"])
            except (AttributeError, KeyError, TypeError, ValueError):
                faults.append(f"{index}: {entry['id']} is not the record of a sample of ours")
                continue
            read = _tar_reader(tar, entry["files"], workdir / COLORS / entry["id"])
            names = tuple(entry["files"])
            yield Sample(entry["id"], entry["record"], names, tar, read, colorings.get(entry["id"], ()))


def _colorings(folder: Path, pattern: str = "*") -> dict[str, tuple[str, ...]]:
    """Returns the names of the colorings in FOLDER/ID whose image and record both exist, by id."""
    paths = (path for path in folder.glob(f"{pattern}/{_COLORING_RECORDS}") if path.with_suffix(".png").exists())
    found = sorted((path.parent.name, path.stem) for path in paths)
    by_id = itertools.groupby(found, key=lambda pair: pair[0])
    return {sample_id: tuple(name for _, name in pairs) for sample_id, pairs in by_id}


def _check(record: Any) -> None:
    """Raises AttributeError, KeyError, TypeError or ValueError if a record lacks what all records have."""
    for term in TERMS:
        record[term]["prompt"].lower(), record[term]["model"].lower()
    int(record["height"]), int(record["width"])
    for name in ("run", "models", "seconds"):
        record.get(name, {}).keys()
    recorded_gain_db(record)


def _tar_reader(tar: Path, positions: Mapping[str, tuple[int, int]], beside: Path) -> Callable[[str], bytes]:
    """Returns a function that reads a file of a sample from a tar file, or from the folder `beside` it."""

    def read(name: str) -> bytes:
        if name not in positions:
            return (beside / name).read_bytes()
        start, size = positions[name]
        with tar.open("rb") as file:
            file.seek(start)
            return file.read(size)

    return read
