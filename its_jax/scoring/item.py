"""What a scorer receives."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Item:
    """What a scorer is given of a sample.

    Attributes:
      job: its settings. pictures: term -> float32 `[h, w, 3]` in [0, 1]. spectrogram: `[h, w]` in [0, 1].
      waveform: float32 `[samples]` in [-1, 1] at `sampling_rate` Hz.
    """

    job: Mapping[str, Any]
    pictures: Mapping[str, np.ndarray]
    spectrogram: np.ndarray
    waveform: np.ndarray
    sampling_rate: int


# Items -> column -> a number for each item, of which more is better, or None where there is nothing to tell.
Scorer = Callable[[Sequence[Item]], Mapping[str, Sequence[float | None]]]
