"""Finds which images are missing, and writes them: color_00.png with color_00.json, and so on, for each sample.

An image is finished once its record exists, the .json. The record holds all settings that determine the image, by which
a later run recognizes it. An image with other settings takes the next free number. No jax.
"""

import dataclasses
import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from its_jax.errors import UserError
from its_jax.media import images, videos
from its_jax.settings.records import settings_of
from its_jax.storage import files
from its_jax.storage.files import json_bytes
from its_jax.storage.samples import Sample, Samples, colorings_folder, video_path

GROUP = "colorize"  # the settings of the image in its record
STARRED = "starred.txt"  # as the gallery exports it


@dataclasses.dataclass(frozen=True)
class ColorTask:
    """An image to generate.

    Attributes:
      settings: from `ColorSettings.for_trial`.
      levels: the gray image, uint8 `[H W]`.
      name: of its files.
      video: whether it gets a video.
    """

    sample: Sample
    settings: Mapping[str, Any]
    levels: np.ndarray
    name: str
    video: bool

    @property
    def gray(self) -> np.ndarray:
        """Returns the gray image, float32 `[H W]` in [0, 1]."""
        return self.levels.astype(np.float32) / 255

    @property
    def view(self) -> str:
        """Returns the name of the view through which the image shows its subject."""
        return self.sample.record["image"]["view"]

    @property
    def wrap(self) -> bool:
        """Returns whether the image is a loop."""
        return self.sample.record.get("wrap", False)

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Returns what the tasks of a batch agree in."""
        return self.levels.shape, self.view, self.wrap

    @property
    def label(self) -> str:
        """Returns the name of the image in messages."""
        return f"{self.sample.id}/{self.name}"


def select_samples(finished: Samples, select: str, workdir: Path) -> list[Sample]:
    """Returns the samples that 'all', 'starred' (the ids in WORKDIR/starred.txt), or 'ID,ID' names.

    Raises:
      UserError: no sample is selected, or an id is not that of a finished sample.
    """
    if select == "all":
        ids = list(finished)
    elif select == "starred":
        ids = _starred(workdir / STARRED)
    else:
        ids = [name.strip() for name in select.split(",") if name.strip()]
    if not ids:
        raise UserError(f"{workdir}: has no finished samples to colorize (--select={select})")
    for name in ids:
        if name not in finished:
            close = difflib.get_close_matches(name, finished, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"--select: {workdir} has no finished sample {name}{hint}")
    return [finished[name] for name in dict.fromkeys(ids)]


def _starred(path):
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({files.describe(error)}); export the starred ids from the gallery and put that "
            "file there"
        ) from error


def read_gray(sample: Sample) -> np.ndarray:
    """Reads the spectrogram of a finished sample, uint8 `[H W]`.

    Raises:
      UserError: it is missing, or does not agree with the sample's record.
    """
    gray = sample.read_image()
    if gray.ndim != 2:
        raise UserError(f"{sample.path}: spectrogram.png of {sample.id} must be gray")
    settings = settings_of(sample.record)
    height, width = settings.get("height"), settings.get("width")
    cropped = settings.get("crop_image") or settings.get("cutoff_latent")
    rows, columns = gray.shape
    if rows != height or not (columns < width if cropped else columns == width):
        expected = f"{height} x {'fewer than ' if cropped else ''}{width}"
        raise UserError(
            f"{sample.path}: spectrogram.png of {sample.id} has {rows} x {columns} pixels; its record says {expected}"
        )
    return np.rint(gray * 255).astype(np.uint8)


def missing(sample: Sample, trials: Iterable[Mapping[str, Any]], videos: int) -> tuple[list[ColorTask], list[str]]:
    """Returns the images with these settings that do not exist, and the names of images that only lack a video.

    Args:
      trials: settings from `ColorSettings.for_trial`.
      videos: how many of the first trials get a video.

    Raises:
      UserError: see `read_gray`; or the sound for a video is missing.
    """
    levels = read_gray(sample)
    digest, known = _digest(levels), sample.coloring_records()
    names, tasks, without_video = set(known), [], []
    for trial, settings in enumerate(trials):
        name, video = _find_image(known, settings, digest), trial < videos
        if name is None:
            name = _free_name(names)
            names.add(name)
            tasks.append(ColorTask(sample, settings, levels, name, video))
        elif video and not video_path(sample, name).exists():
            without_video.append(name)
    if any(task.video for task in tasks):
        sample.read_audio()
    return tasks, without_video


def _find_image(records: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], digest: str) -> str | None:
    """Returns the name of the image with these settings of the spectrogram with this digest, or None."""
    for name, record in records.items():
        if record.get(GROUP) == settings and record.get("spectrogram_sha256") == digest:
            return name
    return None


def _digest(levels):
    return hashlib.sha256(levels.tobytes()).hexdigest()


def _free_name(names: Collection[str]) -> str:
    return next(name for name in (f"color_{n:02d}" for n in range(len(names) + 1)) if name not in names)


def write(task: ColorTask, image: np.ndarray, about: Mapping[str, Any]) -> None:
    """Writes the image, its video if it gets one, and last the record.

    Args:
      image: `[H W 3]` in [0, 1].
      about: further entries of the record.

    Raises:
      UserError: a file cannot be written.
    """
    sample, folder = task.sample, colorings_folder(task.sample)
    with files.explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    record = {"id": sample.id, GROUP: dict(task.settings), "spectrogram_sha256": _digest(task.levels), **about}
    files.write(folder / f"{task.name}.png", images.png(image, record))
    if task.video:
        write_video(sample, task.name, image, record)
    files.write(folder / f"{task.name}.json", json_bytes(record))


def check_colored(sample: Sample, color: str) -> None:
    """Raises `UserError` if a sample has no colored image of this name."""
    if color not in sample.colorings:
        known = ", ".join(sample.colorings) or "none; its_jax.colorize makes them"
        raise UserError(f"--color={color}: {sample.id} has no such colored image; it has {known}")


def write_video(sample: Sample, name: str, image: np.ndarray, record: Mapping[str, Any]) -> None:
    """Writes the video of a colored image, which it shows above the spectrogram, at the gain of the sample's audio.

    Raises:
      UserError: the video cannot be written.
    """
    prompts = record[GROUP]["prompt"], sample.record["audio"]["prompt"]
    frame = images.stack_vertically(image, sample.read_image())
    settings = {**record, "run": {**record.get("run", {}), "gain_db": sample.gain_db}}
    videos.write_video(video_path(sample, name), frame, *sample.read_audio(), *prompts, settings=settings)
