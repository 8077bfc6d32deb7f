"""Estimates the time and disk space that a sweep will take, before anything is generated."""

import logging
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
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
_AUDIO_BYTES = 320  # bytes of audio for each column of pixels: 10 ms at 16 kHz and 16 bits


def log_forecast(
    workdir: Path,
    groups: Sequence[batches.ProgramGroup],
    done: Collection[str],
    options: RunOptions,
    store: FolderWriter | ShardWriter,
    columns: Collection[str] = (),
) -> None:
    """Logs the number of samples, programs and batches, and the time and disk space that they will take.

    Warns if finished samples lack some of the requested scores.

    Args:
      done: ids of finished samples. store: reads them.
      columns: names of the requested scores.
    """
    missing = {name: one for group in groups for name, one in group.requested.items() if name not in done}
    logging.info("%d samples, %d of them finished", len(missing) + len(done), len(done))
    finished = store.peek(done, RECORDS_READ)
    records = [record for record, _ in finished]
    warn_unscored(workdir, records, columns)
    if not missing:
        return
    unfinished = [group for group in groups if not group.requested.keys() <= set(done)]
    logging.info("%d programs to compile (steps, solvers, prompts, weights and seeds share one)", len(unfinished))
    logging.info("%s", _batches(workdir, unfinished, done, options.batch_size))
    copies = 1 if isinstance(store, FolderWriter) else 2  # The gallery needs image and audio files beside tar files.
    sizes = [size * copies for _, size in finished]
    logging.info("%s", _space(workdir, list(missing.values()), sizes, options.video, copies))
    logging.info("%s", _time(len(missing), records))


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


def _space(workdir: Path, missing: Sequence[SampleSettings], sizes: Sequence[int], video: bool, copies: int) -> str:
    """Describes the disk space that the missing samples need.

    Args:
      sizes: bytes of each finished sample. Without any, the size of the arrays is an upper limit for PNG and FLAC.
    """
    bytes_each = sum(sizes) / len(sizes) if sizes else copies * max(map(_array_bytes, missing))
    needed = bytes_each * len(missing)
    description = f"{'' if sizes else 'at most '}{_format_bytes(needed)} of files"
    if not files.is_local(workdir):
        return description
    free = shutil.disk_usage(next(path for path in (workdir, *workdir.absolute().parents) if path.exists())).free
    if needed > free and sizes:
        logging.warning("%s are free, which is less than the sweep will need", _format_bytes(free))
    return f"{description}, {_format_bytes(free)} are free" + ", without videos" * (video and not sizes)


def _array_bytes(settings: SampleSettings) -> int:
    """Returns the bytes of color images, a gray spectrogram, and audio of 16 bits."""
    pixels = settings.height * settings.width
    return pixels * (3 * len(image_terms(settings)) + 1) + settings.width * _AUDIO_BYTES


def _time(missing: int, records: Sequence[Mapping[str, Any]]) -> str:
    """Describes the time for the missing samples by one process like that which made the finished ones."""
    if not records:
        return "time: known after the first batches"
    seconds = [sum(record["seconds"][stage] for stage in STAGES) / record["run"]["batch_size"] for record in records]
    rest = format_duration(missing * sum(seconds) / len(seconds))
    return f"about {rest} for the rest, based on {len(seconds)} finished samples"


def _format_bytes(number: float) -> str:
    """Formats a number of bytes, such as '1.5 MB'."""
    power = min(4, int(math.log(max(1, number), 1000)))
    return f"{number / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
