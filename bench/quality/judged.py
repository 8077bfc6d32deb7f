"""Applies the judges of the embedded models' images and audio, and reports how often both are right."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from its_jax.scoring import metrics
from its_jax.tiny import judges
from its_jax.tiny.data import items

BATCH = 12  # samples whose audio is analyzed at once


load_judge = functools.cache(judges.load)


def judge(spectrogram: np.ndarray, waveform: np.ndarray, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns whether the judges find image and audio right, bool `[n]` each.

    Args:
      spectrogram: `[n H W]` in [0, 1], as seen. waveform: `[n samples]`, which is analyzed again.
      expected: classes `[n]` of "picture" and "sound".
    """
    blocks = [waveform[start : start + BATCH] for start in range(0, len(waveform), BATCH)]
    heard = np.concatenate([items.to_spectrogram(block) for block in blocks])
    inputs = {"picture": spectrogram, "sound": heard}
    return {kind: judges.classify(load_judge(kind), inputs[kind]) == np.asarray(expected[kind]) for kind in inputs}


def rates(right: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns how often image, audio and both are right, and Wilson's 95 % interval of both."""
    both = right["picture"] & right["sound"]
    return {
        **{kind: round(float(of_kind.mean()), 3) for kind, of_kind in right.items()},
        "both": round(float(both.mean()), 3),
        "interval": [round(end, 3) for end in metrics.wilson_interval(int(both.sum()), len(both))],
    }
