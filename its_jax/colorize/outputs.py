"""What is to be coloured, and the files of what was: beside a sample's own, color_00.png with color_00.json, and so on.

A picture is done once its record, the .json, is there. The record holds all that decides what the picture is, by which
what is done is found again; a picture of other settings takes the next number that is free. No jax.
"""

import dataclasses
import difflib
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from its_jax.errors import UserError
from its_jax.media import images, videos
from its_jax.settings.records import settings_of
from its_jax.storage import files
from its_jax.storage.files import json_bytes
from its_jax.storage.samples import Sample, Samples, colorings_folder, video_path

GROUP = "colorize"  # of a record: the settings of the picture
STARRED = "starred.txt"  # as the gallery exports it


@dataclasses.dataclass(frozen=True)
class ColorTask:
    """A picture that is to be made.

    Attributes:
      settings: from `Settings.of_trial`. levels: of the grey, uint8 `[H W]`. name: of its files.
      video: whether it gets one.
    """

    sample: Sample
    settings: Mapping[str, Any]
    levels: np.ndarray
    name: str
    video: bool

    @property
    def grey(self) -> np.ndarray:
        """float32 `[H W]` in [0, 1]."""
        return self.levels.astype(np.float32) / 255

    @property
    def seen(self) -> dict[str, Any]:
        """How the grey shows what it shows: `view`, and `wrap`."""
        return {"view": self.sample.record["image"]["view"], "wrap": self.sample.record.get("wrap", False)}

    @property
    def label(self) -> str:
        return f"{self.sample.id}/{self.name}"


def select_samples(made: Samples, select: str, workdir: Path) -> list[Sample]:
    """'all', 'starred' (the ids in WORKDIR/starred.txt), or 'ID,ID' -> samples.

    Raises:
      UserError: there is none, or none of that id.
    """
    if select == "all":
        ids = list(made)
    elif select == "starred":
        ids = _starred(workdir / STARRED)
    else:
        ids = [name.strip() for name in select.split(",") if name.strip()]
    if not ids:
        raise UserError(f"{workdir}: there are no finished samples to colour (--select={select})")
    for name in ids:
        if name not in made:
            close = difflib.get_close_matches(name, made, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"--select: {workdir} has no finished sample {name}{hint}")
    return [made[name] for name in dict.fromkeys(ids)]


def _starred(path):
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({files.describe(error)}); export the starred ids from the gallery and put that "
            "file there"
        ) from error


def read_gray(sample: Sample) -> np.ndarray:
    """The grey of a finished sample, 256 levels, uint8 `[H W]`.

    Raises:
      UserError: it is missing, or is not what the sample's record tells of.
    """
    grey = sample.read_image()
    if grey.ndim != 2:
        raise UserError(f"{sample.path}: spectrogram.png of {sample.id} is not grey: it is no canvas of ours")
    settings = settings_of(sample.record)
    (height, width), wanted = grey.shape, (settings.get("height"), settings.get("width"))
    cut = settings.get("crop_image") or settings.get("cutoff_latent")
    if height != wanted[0] or not (width < wanted[1] if cut else width == wanted[1]):
        raise UserError(
            f"{sample.path}: spectrogram.png of {sample.id} has {height} x {width} pixels, where its record tells of "
            f"{wanted[0]} x {wanted[1]}: it is no canvas of ours"
        )
    return np.rint(grey * 255).astype(np.uint8)


def missing(sample: Sample, trials: Iterable[Mapping[str, Any]], videos: int) -> tuple[list[ColorTask], list[str]]:
    """The pictures of these settings that are not there yet, and the names of those that lack their videos only, which
    the first `videos` get.

    Raises:
      UserError: as `canvas`, or there is no sound for a video.
    """
    levels = read_gray(sample)
    known = sample.coloring_records()
    taken, todo, silent = set(known), [], []
    for trial, settings in enumerate(trials):
        name, video = _name_of(known, settings, _digest(levels)), trial < videos
        if name is None:
            name = _free(taken)
            taken.add(name)
            todo.append(ColorTask(sample, settings, levels, name, video))
        elif video and not video_path(sample, name).exists():
            silent.append(name)
    if any(painting.video for painting in todo):
        sample.read_audio()
    return todo, silent


def _name_of(known, settings, digest):
    wanted = settings, digest
    return next((name for name, of in known.items() if (of.get(GROUP), of.get("spectrogram_sha256")) == wanted), None)


def _digest(levels):
    return hashlib.sha256(levels.tobytes()).hexdigest()


def _free(taken):
    return next(name for name in (f"color_{n:02d}" for n in range(len(taken) + 1)) if name not in taken)


def write(painting: ColorTask, picture: np.ndarray, about: Mapping[str, Any]) -> None:
    """Picture, video if it is wanted, and last the record.

    Args:
      picture: `[H W 3]` in [0, 1]. about: what else the record tells.

    Raises:
      UserError: cannot write.
    """
    sample, folder = painting.sample, colorings_folder(painting.sample)
    with files.explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    record = {"id": sample.id, GROUP: dict(painting.settings), "spectrogram_sha256": _digest(painting.levels), **about}
    files.write(folder / f"{painting.name}.png", images.png(picture, record))
    if painting.video:
        write_video(sample, painting.name, picture, record)
    files.write(folder / f"{painting.name}.json", json_bytes(record))


def write_video(sample: Sample, name: str, picture: np.ndarray, record: Mapping[str, Any]) -> None:
    """The video of a coloured picture, above the spectrogram. UserError: cannot write."""
    prompts = record[GROUP]["prompt"], sample.record["audio"]["prompt"]
    shown, settings = images.stack_vertically(picture, sample.read_image()), dict(record)
    videos.write_video(video_path(sample, name), shown, *sample.read_audio(), *prompts, settings=settings)
