"""Durations of compiling, which are kept in the cache folder, so that the next run can log how long it may take."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from its_jax.errors import UserError
from its_jax.pipeline import record
from its_jax.runtime.cache import cache_folder
from its_jax.runtime.duration import format_duration
from its_jax.storage import files

FILE = "compile_seconds.json"  # in the cache folder: seconds by the digest of what was compiled, the oldest first
MOST = 500  # entries, after which the oldest ones are dropped


@contextlib.contextmanager
def announced(program: Mapping[str, Any], batch_size: int, device: jax.Device) -> Iterator[None]:
    """Logs that a program is compiled inside, with the duration of the last time, and keeps the new duration.

    Args:
      program: what samples of the program have in common, see `its_jax.settings.ids.program_key`.
      batch_size: the largest batch size that is tried.
      device: one of the devices, all of one kind.
    """
    key = _digest(program, batch_size, device)
    last = _read().get(key)
    logging.info("compiling%s", f" (took {format_duration(last)} last time)" if last is not None else "")
    start = time.perf_counter()
    yield
    _keep(key, time.perf_counter() - start)


def _digest(program, batch_size, device):
    """Returns a digest of everything that decides how long compiling takes."""
    parts = [program, batch_size, device.device_kind, record.machine(), record.versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _read() -> dict[str, float]:
    """Returns the durations on record; those that cannot be read are left out."""
    with contextlib.suppress(UserError):
        content = files.read_json(cache_folder() / FILE)
        return {key: value for key, value in content.items() if type(value) in (int, float) and 0 <= value < 1e9}
    return {}


def _keep(key, seconds):
    """Writes a duration as the newest one. A cache folder that cannot be written to costs only the record."""
    durations = _read()
    durations.pop(key, None)
    newest = [*durations.items(), (key, round(seconds, 2))][-MOST:]
    with contextlib.suppress(UserError, OSError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        files.write_json(cache_folder() / FILE, dict(newest))
