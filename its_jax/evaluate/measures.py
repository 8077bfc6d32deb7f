"""What is measured of one finished sample: numbers for means, and features for Frechet distances."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from its_jax import pretrained
from its_jax.audio.mel import MelConfig, log_mel, mel_to_image
from its_jax.errors import UserError
from its_jax.pipeline import decoding
from its_jax.scoring import clip_clap
from its_jax.scoring.item import Item

Found = tuple[Mapping[str, float], Mapping[str, np.ndarray]]  # column -> number, kind -> features `[n, d]`


class Measure(NamedTuple):
    """One thing to measure.

    Attributes:
      name: of it. identity: of what measures it: what another one has found does not count.
      of: `Item` -> `Found`. UserError: this sample has nothing to measure.
      needs: what it looks at, of "spectrogram" and "sound".
    """

    name: str
    identity: str
    of: Callable[[Item], Found]
    needs: tuple[str, ...]


def clip(scorer: clip_clap.ClipScorer) -> Measure:
    """Columns `clip`, and `clip_TERM` for terms beside `image`."""

    def of(item):
        return {column: values[0] for column, values in scorer([item]).items()}, {}

    return Measure("clip", scorer.identity, of, ("spectrogram",))


def clap(scorer: clip_clap.ClapScorer) -> Measure:
    """Column `clap`."""

    def of(item):
        return {"clap": _score(scorer, scorer.embed_audio(item.waveform, item.sampling_rate), item)}, {}

    return Measure("clap", scorer.identity, of, ("sound",))


def griffin_lim(scorer: clip_clap.ClapScorer) -> Measure:
    """Column `clap_griffin_lim`: of the sound that Griffin-Lim makes of the spectrogram."""

    def of(item):
        mel = mel_of(item)
        (waveform,) = decoding.vocode(None, item.spectrogram[None], mel, "griffin_lim", item.settings.wrap)
        return {
            "clap_griffin_lim": _score(scorer, scorer.embed_audio(np.asarray(waveform), mel.sampling_rate), item)
        }, {}

    return Measure("griffin_lim", scorer.identity, of, ("spectrogram",))


def round_trip() -> Measure:
    """Column `round_trip`: how far the sound's own spectrogram is from the one that it was made of, as the mean
    difference of pictures in [0, 1]."""

    def of(item):
        again = resynthesize(item)
        if len(again) != len(item.spectrogram):
            raise UserError(f"spectrogram.png is {len(item.spectrogram)} pixels high, in place of {len(again)}")
        width = min(again.shape[1], item.spectrogram.shape[1])
        return {"round_trip": float(np.abs(again[:, :width] - item.spectrogram[:, :width]).mean())}, {}

    return Measure("round_trip", "", of, ("spectrogram", "sound"))


def resynthesize(item: Item) -> np.ndarray:
    """The spectrogram of the sound, `[mels, frames]` in [0, 1]."""
    return np.asarray(_analysed(np.asarray(item.waveform, np.float32)[None], mel_of(item)))[0]


@functools.partial(jax.jit, static_argnames="mel")
def _analysed(waveform, mel):
    return mel_to_image(log_mel(waveform, mel), mel)


def mel_of(item: Item) -> MelConfig:
    """The front end of the vocoder that made the sound. UserError: its model cannot be had."""
    return _mel(item.settings.terms["audio"].model, item.settings.height)


@functools.cache
def _mel(source, height):
    vocoder = pretrained.abstract_model(source, parts=("vocoder",), dtype="float32").vocoder
    return decoding.mel_config(vocoder.config, height)


def _score(scorer, vectors, item):
    return clip_clap.percent(clip_clap.cosines(vectors, scorer.embed_text(item.settings.terms["audio"].prompt)))


def image_features(extract: Callable[[np.ndarray], np.ndarray], kind: str) -> Measure:
    """Features of the grey spectrogram: `extract` takes uint8 squares `[n, side, side, 3]` and gives `[n, d]`."""
    return Measure(
        f"{kind} features", "", lambda item: ({}, {kind: extract(squares(item.spectrogram))}), ("spectrogram",)
    )


def audio_features(extract: Callable[[np.ndarray, int], np.ndarray], kind: str, identity: str = "") -> Measure:
    """Features of the sound: `extract` takes a waveform and its sampling rate and gives `[n, d]`."""

    def of(item):
        peak = np.abs(item.waveform).max(initial=0)
        if not 0 < peak < np.inf:
            raise UserError("the sound is silent" if peak == 0 else "the sound is not finite")
        return {}, {kind: extract(item.waveform, item.sampling_rate)}

    return Measure(f"{kind} features", identity, of, ("sound",))


def squares(grey: np.ndarray) -> np.ndarray:
    """`[h, w]` in [0, 1] -> uint8 `[n, side, side, 3]`: as many squares side by side as there is room for, so that a
    strip is not squeezed into the square that a network looks at."""
    height, width = grey.shape
    side = min(height, width)
    bytes_ = np.rint(np.asarray(grey, np.float32) * 255).astype(np.uint8)
    rows, columns = (range(0, length - side + 1, side) for length in (height, width))
    cut = [bytes_[i : i + side, j : j + side] for i in rows for j in columns]
    return np.repeat(np.stack(cut)[..., None], 3, axis=-1)
