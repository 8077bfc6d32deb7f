"""Reads what was made: `samples.open(workdir)` gives the same from folders and from tar files.

for sample in samples.open("sweep").values():
    print(sample.id, sample.record["image"]["prompt"])
    picture, (waveform, sampling_rate) = sample.picture("image"), sample.waveform()
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

from its_jax.errors import UserError
from its_jax.settings.records import RECORD, VIDEO, recorded_image_terms
from its_jax.settings.schema import TERMS
from its_jax.storage import files as storage_files
from its_jax.storage import writers

SOUNDS = (writers.FolderWriter.sound, writers.ShardWriter.sound)
COLORS = "colors"  # the folder for coloured pictures of samples in tar files
_COLORED = "color_*.json"  # the record of a coloured picture, which is written last
VIDEOS = "videos"  # the folder for videos of samples in tar files, made later: nothing is added to those any more


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample, whose files are read when they are asked for.

    Attributes:
      id: of its settings. record: all its settings, versions, seconds and scores. files: names of its files.
      place: its folder, or its tar file. colors: names of its coloured pictures, see `its_jax.colorize`.
    """

    id: str
    record: Mapping[str, Any]
    files: tuple[str, ...]
    place: Path
    _read: Callable[[str], bytes] = dataclasses.field(repr=False)
    colors: tuple[str, ...] = ()

    def read(self, name: str) -> bytes:
        """Content of one of `files`, or of a coloured picture's. UserError: it cannot be read."""
        with self._reading(name):
            return self._read(name)

    @property
    def sound(self) -> str:
        """The name of the sound's file."""
        return next(name for name in SOUNDS if name in self.files)

    @property
    def pictures(self) -> list[str]:
        """The names that `picture` knows: terms, and last `spectrogram`."""
        return [name.removesuffix(".png") for name in self.files if name.endswith(".png")]

    def picture(self, name: str = "spectrogram") -> np.ndarray:
        """float32 `[h, w]` (grey) or `[h, w, 3]` in [0, 1]: one of `pictures` or of `colors`.

        Raises:
          UserError: it cannot be read.
        """
        file = f"{name}.png"
        with self._reading(file), Image.open(io.BytesIO(self.read(file))) as image:
            return np.asarray(image, np.float32) / 255

    def color_record(self, name: str) -> dict[str, Any]:
        """Of one of `colors`: what made it, its settings under `colorize`. UserError: it cannot be read."""
        try:
            record = json.loads(self.read(f"{name}.json"))
            record["colorize"]["prompt"]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{colors_folder(self) / name}.json: is not the record of a coloured picture") from error
        return record

    def color_records(self) -> dict[str, dict[str, Any]]:
        """Name -> `color_record` of `colors`; what cannot be read is told of and left out."""
        found = {}
        for name in self.colors:
            try:
                found[name] = self.color_record(name)
            except UserError as error:
                logging.warning("%s; the picture is left out", error)
        return found

    def waveform(self) -> tuple[np.ndarray, int]:
        """float32 `[samples]` in [-1, 1], and its sampling rate in Hz. UserError: it cannot be read."""
        with self._reading(self.sound):
            content = self.read(self.sound)
            if content[:4] == b"RIFF" and len(content) < int.from_bytes(content[4:8], "little") + 8:
                raise OSError("it is cut short")  # which soundfile does not say
            return soundfile.read(io.BytesIO(content), dtype="float32")

    @contextlib.contextmanager
    def _reading(self, name):
        try:
            yield
        except (OSError, KeyError, soundfile.LibsndfileError) as error:
            raise UserError(
                f"{self.place}: {name} of {self.id} cannot be read ({storage_files.describe(error)})"
            ) from error


class Samples(Mapping[str, Sample]):
    """The finished samples of a work folder by id, in the order of their ids.

    Attributes:
      faults: what is wrong with records that were left out.
    """

    def __init__(self, by_id: dict[str, Sample], faults: Sequence[str] = ()):
        self._by_id, self.faults = dict(sorted(by_id.items())), tuple(faults)

    def __getitem__(self, sample: str) -> Sample:
        return self._by_id[sample]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)


def get_setting(record: Mapping[str, Any], name: str) -> Any:
    """A sample's setting by its full name, such as `image.weight`. UserError: it has none of that name."""
    value = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(f"--by={name}: the samples have no such setting; take one as method or image.weight")
        value = value[part]
    if isinstance(value, Mapping):
        raise UserError(f"--by={name}: is a group of settings; take one of them, as {name}.{next(iter(value))}")
    return value


def open_samples(workdir: str | Path) -> Samples:  # noqa: A001
    """Everything that is finished in a work folder, whichever layout it has.

    Raises:
      UserError: there is no such folder.
    """
    workdir = storage_files.to_path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: there is no such folder; give one that its_jax.sample or its_jax.sweep wrote to")
    faults: list[str] = []
    found = {sample.id: sample for sample in (*_in_shards(workdir, faults), *_in_folders(workdir, faults))}
    _tell(faults)
    return Samples(found, faults)


def _tell(faults):
    for fault in faults:
        logging.warning("%s; it is left out", fault)


def open_sample(place: str | Path) -> Sample:
    """The sample WORKDIR/ID, whichever layout the work folder has.

    Raises:
      UserError: there is none, or it is not finished.
    """
    place = storage_files.to_path(place)
    faults: list[str] = []
    in_folder = _in_folders(place.parent, faults, glob.escape(place.name))
    in_shards = (sample for sample in _in_shards(place.parent, faults) if sample.id == place.name)
    found = next(itertools.chain(in_folder, in_shards), None)
    _tell(faults)
    if found is None:
        raise UserError(f"{place}: there is no finished sample; give WORKDIR/ID, with an id that is in WORKDIR")
    return found


def video(sample: Sample, color: str = "") -> Path:
    """Where its video is, or that of a coloured picture, or would be."""
    if color:
        return colors_folder(sample) / f"{color}.mp4"
    return sample.place.parents[1] / VIDEOS / f"{sample.id}.mp4" if _is_in_tar(sample) else sample.place / VIDEO


def colors_folder(sample: Sample) -> Path:
    """Where its coloured pictures are, or would be."""
    return sample.place.parents[1] / COLORS / sample.id if _is_in_tar(sample) else sample.place


def _is_in_tar(sample):
    return sample.place.suffix == ".tar"


def _colored(folder, pattern="*"):
    """Id -> names of coloured pictures in FOLDER/ID, of which both files are there."""
    paths = (path for path in folder.glob(f"{pattern}/{_COLORED}") if path.with_suffix(".png").exists())
    found = sorted((path.parent.name, path.stem) for path in paths)
    return {sample: tuple(name for _, name in of) for sample, of in itertools.groupby(found, key=lambda pair: pair[0])}


def _in_folders(workdir, faults, pattern="*"):
    colored = _colored(workdir, pattern)
    with_video = {path.parent.name for path in workdir.glob(f"{pattern}/{VIDEO}")}
    for path in workdir.glob(f"{pattern}/{RECORD}"):
        folder = path.parent
        try:
            record = json.loads(path.read_bytes())
            _check(record)
            names = [f"{term}.png" for term in (*recorded_image_terms(record), "spectrogram")]
        except (OSError, ValueError) as error:
            faults.append(f"{path}: cannot be read ({storage_files.describe(error)})")
            continue
        except (AttributeError, KeyError, TypeError):
            faults.append(f"{path}: is not the record of a sample of ours")
            continue
        there = (*names, SOUNDS[0], *[VIDEO] * (folder.name in with_video), RECORD)
        read = lambda name, folder=folder: (folder / name).read_bytes()  # noqa: E731
        yield Sample(folder.name, record, there, folder, read, colored.get(folder.name, ()))


def _check(record):
    """Raises AttributeError, KeyError or TypeError: it lacks what all records have."""
    for term in TERMS:
        record[term]["prompt"].lower(), record[term]["model"].lower()
    int(record["height"]), int(record["width"])
    for name in ("run", "models", "seconds"):
        record.get(name, {}).keys()


def _in_shards(workdir, faults):
    colored = _colored(workdir / COLORS)
    for index in writers.indices(workdir):
        tar = index.with_suffix(".tar")
        for entry in writers.entries(index):
            try:
                _check(entry["record"])
            except (AttributeError, KeyError, TypeError, ValueError):
                faults.append(f"{index}: {entry['id']} is not the record of a sample of ours")
                continue
            read, colors = _reader(tar, entry["files"], workdir / COLORS / entry["id"]), colored.get(entry["id"], ())
            yield Sample(entry["id"], entry["record"], tuple(entry["files"]), tar, read, colors)


def _reader(tar, places, beside):
    def read(name):
        if name not in places:
            return (beside / name).read_bytes()
        place, size = places[name]
        with tar.open("rb") as file:
            file.seek(place)
            return file.read(size)

    return read
