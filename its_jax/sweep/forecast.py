"""Estimates the time and disk space that a sweep will take, before anything is generated."""

import logging
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.generate import batches
from its_jax.runtime.duration import format_duration
from its_jax.settings.schema import RunOptions
from its_jax.settings.steps import image_terms
from its_jax.storage import files
from its_jax.storage.writers import FolderWriter, ShardWriter

RECORDS_READ = 20  # finished samples, from which time and space of the others are guessed
STAGES = ("encode", "denoise", "decode", "vocode")
_SOUND = 320  # bytes of sound for a column of pixels: 10 ms, at 16 kHz and 16 bits


def log_forecast(
    workdir: Path,
    groups: Sequence[batches.ProgramGroup],
    done: Collection[str],
    options: RunOptions,
    store: FolderWriter | ShardWriter,
    columns: Collection[str] = (),
) -> None:
    """Logs how many samples, programs and batches there are, and what time and space they will take; and which of the
    scores that are asked for, `columns`, the finished samples lack."""
    left = {name: one for group in groups for name, one in group.requested.items() if name not in done}
    total = len(left) + len(done)
    logging.info("%d samples, %d of which are there", total, len(done))
    looked_at = store.peek(done, RECORDS_READ)
    records = [record for record, _ in looked_at]
    warn_unscored(workdir, records, columns)
    if not left:
        return
    waiting = [group for group in groups if not group.requested.keys() <= set(done)]
    logging.info("%d programs to compile (steps, solvers, prompts, weights and seeds share one)", len(waiting))
    logging.info("%s", _batches(workdir, waiting, done, options.batch_size))
    twice = store.audio_file != FolderWriter.audio_file  # beside tar files, the page has pictures and sounds of its own
    logging.info("%s", _space(workdir, left, [size * (1 + twice) for _, size in looked_at], options.video, 1 + twice))
    logging.info("%s", _time(len(left), records))


def warn_unscored(workdir: Path, records: Sequence[Mapping[str, Any]], columns: Collection[str]) -> None:
    """Warns if some of these records lack some of these scores."""
    missing = [column for column in columns if any(column not in (record.get("scores") or {}) for record in records)]
    if missing:
        logging.warning(
            "samples that are there have no %s: python -m its_jax.evaluate --workdir=%s measures them",
            " and ".join(missing), workdir,
        )  # fmt: skip


def _batches(workdir, groups, done, asked):
    counts, sizes = 0, set()
    for group in groups:
        size = asked or batches.recorded_batch_size(workdir, group)
        if not size:
            return "batches: as many at once as the memory holds, which compiling shows (batch_size=0)"
        sizes.add(size)
        counts += batches.count_batches(workdir, group, size, done)
    return f"{counts} batches of up to {max(sizes)}"


def _space(workdir, left, sizes, video, times):
    """Of finished samples, or as much as the arrays have bytes, which PNG and FLAC do not exceed."""
    each = sum(sizes) / len(sizes) if sizes else times * max(map(_bytes, left.values()))
    need, guess = each * len(left), "" if sizes else "at most "
    told = f"{guess}{_in_bytes(need)} of files"
    if not files.is_local(workdir):
        return told
    free = shutil.disk_usage(next(path for path in (workdir, *workdir.absolute().parents) if path.exists())).free
    if need > free and sizes:
        logging.warning("%s are free, which is less than the sweep will need", _in_bytes(free))
    return f"{told}, {_in_bytes(free)} are free" + ", videos aside" * (video and not sizes)


def _bytes(settings):
    """Colour pictures, a grey spectrogram, and 16 bits for each sample of the sound."""
    pixels = settings.height * settings.width
    return pixels * (3 * len(image_terms(settings)) + 1) + settings.width * _SOUND


def _time(left, records):
    """Of one process like the one that made the finished samples."""
    if not records:
        return "time: is told after the first batches"
    each = [sum(record["seconds"][stage] for stage in STAGES) / record["run"]["batch_size"] for record in records]
    return f"about {format_duration(left * sum(each) / len(each))} for the rest, as {len(each)} finished samples took"


def _in_bytes(number):
    power = min(4, int(math.log(max(1, number), 1000)))
    return f"{number / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
