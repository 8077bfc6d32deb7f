"""Computes the spectrogram of a sample's audio, to compare it with the one that the audio was generated from."""

import functools
import itertools
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from its_jax import pretrained
from its_jax.audio.mel import MelConfig, log_mel, mel_to_image
from its_jax.media import images
from its_jax.pipeline import decoding
from its_jax.scoring.item import Item

_SHOWN = 4  # items on the contact sheet


def resynthesize(item: Item) -> np.ndarray:
    """Computes the spectrogram of the audio, `[mels, frames]` in [0, 1]."""
    return np.asarray(_spectrogram(np.asarray(item.waveform, np.float32)[None], mel_config(item)))[0]


@functools.partial(jax.jit, static_argnames="mel")
def _spectrogram(waveform, mel):
    return mel_to_image(log_mel(waveform, mel), mel)


def mel_config(item: Item) -> MelConfig:
    """Returns the mel front end of the vocoder that generated the audio.

    Raises:
      UserError: its model is not available.
    """
    return _mel_config(item.settings.terms["audio"].model, item.settings.height)


@functools.cache
def _mel_config(source, height):
    vocoder: Any = pretrained.abstract_model(source, components=("vocoder",), dtype="float32").vocoder
    return decoding.mel_config(vocoder.config, height)


def contact_sheet(items: Iterable[Item]) -> np.ndarray | None:
    """Draws the first items, each above the spectrogram of its audio, `[h, w, 3]` in [0, 1]; None if there are none."""
    shown: list[np.ndarray] = []
    captions: list[str] = []
    for item in itertools.islice(items, _SHOWN):
        prompt = item.settings.terms["audio"].prompt
        shown += [item.spectrogram, resynthesize(item)]
        captions += [f"{prompt}: the vocoder's input", f"{prompt}: the spectrogram of the audio"]
    return images.contact_sheet(shown, captions, 2) if shown else None
