"""Estimates the time and disk space that a sweep will take, before anything is generated."""

import dataclasses
import logging
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.generate import batches
from its_jax.runtime.duration import format_duration
from its_jax.settings.records import STAGES
from its_jax.settings.schema import RunOptions, SampleSettings
from its_jax.settings.steps import image_terms
from its_jax.storage import files
from its_jax.storage.writers import FolderWriter, ShardWriter

RECORDS_READ = 20  # finished samples, from which the time and space of the others are estimated
MAX_SAMPLES = 100_000  # More than this many may be a mistake in a grid.
_AUDIO_BYTES = 320  # bytes of audio for each column of pixels: 10 ms at 16 kHz and 16 bits
_VIDEO_BYTES = 8  # bytes of a video for each pixel of the image; white noise takes 4 to 7


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The samples that are still to be generated, and the space that they need.

    Attributes:
      samples: their number.
      files: bytes of their files. is_limit: whether that is an upper limit rather than an estimate.
      free: bytes that are free in the work folder; infinite in Google Cloud Storage.
    """

    samples: int = 0
    files: float = 0.0
    is_limit: bool = False
    free: float = math.inf

    @property
    def excess(self) -> str:
        """Returns why these are more samples than a mistake in a grid should cost, or ''."""
        reasons = []
        if self.samples > MAX_SAMPLES:
            reasons.append(f"are more than {MAX_SAMPLES:,}")
        if self.files > self.free:
            limit, free = "up to " if self.is_limit else "about ", format_bytes(self.free)
            reasons.append(f"need {limit}{format_bytes(self.files)} of disk space, of which {free} are free")
        return f"{self.samples:,} samples to generate {' and '.join(reasons)}" if reasons else ""

    def describe_space(self) -> str:
        """Describes the disk space that the samples need."""
        needed = f"{'at most ' if self.is_limit else ''}{format_bytes(self.files)} of files"
        return needed if self.free == math.inf else f"{needed}, {format_bytes(self.free)} are free"


def log_forecast(
    workdir: Path,
    groups: Sequence[batches.ProgramGroup],
    done: Collection[str],
    options: RunOptions,
    store: FolderWriter | ShardWriter,
    columns: Collection[str] = (),
    free_bytes: Callable[[Path], float] | None = None,
) -> Forecast:
    """Logs the number of samples, programs and batches, and the time and disk space that they will take.

    Warns if finished samples lack some of the requested scores.

    Args:
      done: ids of finished samples. store: reads them.
      columns: names of the requested scores.
      free_bytes: returns the bytes that are free in a folder; by default those of its disk.
    """
    missing = {name: one for group in groups for name, one in group.requested.items() if name not in done}
    logging.info("%s samples, %s of them finished", f"{len(missing) + len(done):,}", f"{len(done):,}")
    finished = store.peek(done, RECORDS_READ)
    records = [record for record, _ in finished]
    warn_unscored(workdir, records, columns)
    if not missing:
        return Forecast()
    unfinished = [group for group in groups if not group.requested.keys() <= set(done)]
    logging.info(
        "%d programs to compile (steps, solvers, prompts, weights, seeds and files share one)", len(unfinished)
    )
    logging.info("%s", _batches(workdir, unfinished, done, options.batch_size))
    copies = 1 if isinstance(store, FolderWriter) else 2  # The gallery needs image and audio files beside tar files.
    sizes = [size * copies for _, size in finished]
    bytes_each = (
        sum(sizes) / len(sizes) if sizes else copies * max(_max_bytes(one, options.video) for one in missing.values())
    )
    expected = Forecast(len(missing), bytes_each * len(missing), not sizes, (free_bytes or _free_bytes)(workdir))
    logging.info("%s", expected.describe_space())
    logging.info("%s", _time(len(missing), records))
    return expected


def warn_unscored(workdir: Path, records: Sequence[Mapping[str, Any]], columns: Collection[str]) -> None:
    """Warns if some of these records lack some of these scores."""
    missing = [column for column in columns if any(column not in (record.get("scores") or {}) for record in records)]
    if missing:
        logging.warning(
            "finished samples have no %s scores: python -m its_jax.evaluate --workdir=%s adds them",
            " and ".join(missing), workdir,
        )  # fmt: skip


def _batches(workdir: Path, groups: Sequence[batches.ProgramGroup], done: Collection[str], requested: int) -> str:
    """Describes the number of batches."""
    count, sizes = 0, set()
    for group in groups:
        size = requested or batches.recorded_batch_size(workdir, group)
        if not size:
            return "batches: as large as fits in memory, which is known after compiling (batch_size=0)"
        sizes.add(size)
        count += batches.count_batches(workdir, group, size, done)
    return f"{count} batches of up to {max(sizes)}"


def _free_bytes(workdir: Path) -> float:
    """Returns the bytes that are free where a work folder is, or will be; infinite in Google Cloud Storage."""
    if not files.is_local(workdir):
        return math.inf
    return shutil.disk_usage(next(path for path in (workdir, *workdir.absolute().parents) if path.exists())).free


def _max_bytes(settings: SampleSettings, video: bool) -> int:
    """Returns an upper limit of a sample's size: color images, a gray spectrogram, audio of 16 bits, and a video."""
    pixels = settings.height * settings.width
    arrays = pixels * (3 * len(image_terms(settings)) + 1) + settings.width * _AUDIO_BYTES
    return arrays + _VIDEO_BYTES * pixels * video


def _time(missing: int, records: Sequence[Mapping[str, Any]]) -> str:
    """Describes the time for the missing samples by one process like that which made the finished ones."""
    if not records:
        return "time: known after the first batches"
    seconds = [sum(record["seconds"][stage] for stage in STAGES) / record["run"]["batch_size"] for record in records]
    rest = format_duration(missing * sum(seconds) / len(seconds))
    return f"about {rest} for the rest, based on {len(seconds)} finished samples"


def format_bytes(number: float) -> str:
    """Formats a number of bytes, such as '1.5 MB'."""
    power = min(4, int(math.log(max(1, number), 1000)))
    return f"{number / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
