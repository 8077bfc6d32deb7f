"""What a scorer receives."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from its_jax.settings.schema import SampleSettings


@dataclasses.dataclass(frozen=True)
class Item:
    """What a scorer is given of a sample.

    Attributes:
      settings: of the sample. pictures: term -> float32 `[h, w, 3]` in [0, 1]. spectrogram: `[h, w]` in [0, 1].
      waveform: float32 `[samples]` in [-1, 1] at `sampling_rate` Hz.
    """

    settings: SampleSettings
    pictures: Mapping[str, np.ndarray]
    spectrogram: np.ndarray
    waveform: np.ndarray
    sampling_rate: int

    @property
    def job(self) -> dict[str, Any]:
        """The settings as a flat dictionary, with one dictionary for each term."""
        return self.settings.to_dict()


# Items -> column -> a number for each item, of which more is better, or None where there is nothing to tell.
Scorer = Callable[[Sequence[Item]], Mapping[str, Sequence[float | None]]]
