"""The input and the output of scorers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from its_jax import deprecated
from its_jax.settings.schema import SampleSettings


@deprecated.renamed_attributes(pictures="images")
@dataclasses.dataclass(frozen=True)
class Item:
    """One sample as scorers receive it.

    Attributes:
      settings: of the sample. images: term -> float32 `[h, w, 3]` in [0, 1]. spectrogram: `[h, w]` in [0, 1].
      waveform: float32 `[samples]` in [-1, 1] at `sampling_rate` Hz.
    """

    settings: SampleSettings
    images: Mapping[str, np.ndarray]
    spectrogram: np.ndarray
    waveform: np.ndarray
    sampling_rate: int

    @property
    def job(self) -> dict[str, Any]:
        """Returns the settings as a dictionary, with one dictionary for each term. Deprecated."""
        deprecated.warn("Item.job", "Item.settings.to_dict()")
        return self.settings.to_dict()


# Items -> column -> one number for each item, of which more is better, or None for an item without a score.
Scorer = Callable[[Sequence[Item]], Mapping[str, Sequence[float | None]]]
