"""The gain at which a sample's audio was written, as its record and the tags of its files hold it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_LIMIT = 100.0  # dB, beyond any gain that `its_jax.media.loudness` gives


def recorded_gain_db(record: Mapping[str, Any]) -> float:
    """Returns the gain in dB. It is 0, the raw scale, where a record does not hold one.

    Raises:
      ValueError: it is not a number of at most 100 dB either way.
    """
    run = record.get("run")
    gain_db = run.get("gain_db", 0.0) if isinstance(run, Mapping) else 0.0
    if type(gain_db) not in (int, float) or not -_LIMIT <= gain_db <= _LIMIT:
        raise ValueError(f"run.gain_db={gain_db!r}: must be a number of -{_LIMIT:g} to {_LIMIT:g} dB")
    return float(gain_db)


def recorded_factor(record: Mapping[str, Any]) -> float:
    """Returns the factor between the raw waveform and the written one. ValueError: see `recorded_gain_db`."""
    return 10 ** (recorded_gain_db(record) / 20)


def restore_raw(waveform: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
    """Returns a waveform that was read from a file, float32 `[samples, ...]`, at its raw scale.

    With a gain, it has exactly the 16-bit values that were multiplied by it, see `its_jax.media.sounds.wav`.

    Raises:
      ValueError: see `recorded_gain_db`.
    """
    factor = recorded_factor(record)
    if factor == 1:  # It may have been written by others, with more bits.
        return waveform
    return (np.rint(np.asarray(waveform, np.float64) * 2**15 / factor) / 2**15).astype(np.float32)
