"""Measures one finished sample: scores to average, and features for Frechet distances."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from its_jax.errors import UserError
from its_jax.evaluate.resynthesis import mel_config, resynthesize
from its_jax.pipeline import decoding
from its_jax.scoring import clip_clap
from its_jax.scoring.item import Item
from its_jax.settings.records import recorded_settings
from its_jax.storage.samples import Sample

# Scores by column, and features [n, d] by kind.
Measured = tuple[Mapping[str, float], Mapping[str, np.ndarray]]


class Measure(NamedTuple):
    """A way to measure a sample.

    Attributes:
      name: the name under which results are kept.
      identity: of the model that measures, "" without one. Results of another model are not used.
      compute: `Item` -> `Measured`; raises UserError if the sample cannot be measured.
      needs: which parts of the sample it reads, "spectrogram" or "audio" or both.
    """

    name: str
    identity: str
    compute: Callable[[Item], Measured]
    needs: tuple[str, ...]

    def scored(self, record: Mapping[str, Any]) -> bool:
        """Returns whether the scores in a sample's record, if it has any, were computed by the same model."""
        return bool(self.identity) and record.get("models", {}).get(self.name) == self.identity


def read_item(sample: Sample, needs: Sequence[str] = ("spectrogram", "audio")) -> Item:
    """Reads what is measured of a finished sample. What is not needed is empty, as are the images of the terms.

    Raises:
      UserError: a file that is needed is missing, cannot be read, or is not a gray image or mono audio.
    """
    spectrogram, waveform, sampling_rate = np.zeros((0, 0), np.float32), np.zeros(0, np.float32), 0
    if "spectrogram" in needs:
        spectrogram = sample.read_image()
        if spectrogram.ndim != 2:
            raise UserError("spectrogram.png must be gray")
    if "audio" in needs:
        waveform, sampling_rate = sample.read_audio()
        if waveform.ndim != 1 or not len(waveform):
            raise UserError(f"{sample.audio_file} has {'more than one channel' if len(waveform) else 'no samples'}")
    return Item(recorded_settings(sample.record), {}, spectrogram, waveform, sampling_rate)


def clip(scorer: clip_clap.ClipScorer) -> Measure:
    """Measures the column `clip`, and `clip_TERM` for terms other than `image` and `audio`."""

    def compute(item: Item) -> Measured:
        return {column: values[0] for column, values in scorer([item]).items() if values[0] is not None}, {}

    return Measure("clip", scorer.identity, compute, ("spectrogram",))


def clap(scorer: clip_clap.ClapScorer) -> Measure:
    """Measures the column `clap`."""

    def compute(item: Item) -> Measured:
        return {"clap": _clap_score(scorer, item, item.waveform, item.sampling_rate)}, {}

    return Measure("clap", scorer.identity, compute, ("audio",))


def griffin_lim(scorer: clip_clap.ClapScorer) -> Measure:
    """Measures the column `clap_griffin_lim`: CLAP of the audio that Griffin-Lim generates from the spectrogram."""

    def compute(item: Item) -> Measured:
        mel = mel_config(item)
        (waveform,) = decoding.vocode(None, item.spectrogram[None], mel, "griffin_lim", item.settings.wrap)
        return {"clap_griffin_lim": _clap_score(scorer, item, np.asarray(waveform), mel.sampling_rate)}, {}

    return Measure("griffin_lim", scorer.identity, compute, ("spectrogram",))


def _clap_score(scorer, item, waveform, sampling_rate):
    return scorer.score(waveform, sampling_rate, item.settings.terms["audio"].prompt)


def round_trip() -> Measure:
    """Measures the column `round_trip`: the mean difference, in [0, 1], of the spectrogram from that of its audio."""

    def compute(item: Item) -> Measured:
        again = resynthesize(item)
        if len(again) != len(item.spectrogram):
            raise UserError(f"spectrogram.png is {len(item.spectrogram)} pixels high; it must be {len(again)}")
        width = min(again.shape[1], item.spectrogram.shape[1])
        return {"round_trip": float(np.abs(again[:, :width] - item.spectrogram[:, :width]).mean())}, {}

    return Measure("round_trip", "", compute, ("spectrogram", "audio"))


def image_features(extract: Callable[[np.ndarray], np.ndarray], kind: str) -> Measure:
    """Measures features of the gray spectrogram.

    Args:
      extract: uint8 squares `[n, side, side, 3]` -> features `[n, d]`.
      kind: the name of the features.
    """

    def compute(item: Item) -> Measured:
        return {}, {kind: extract(squares(item.spectrogram))}

    return Measure(f"{kind} features", "", compute, ("spectrogram",))


def audio_features(extract: Callable[[np.ndarray, int], np.ndarray], kind: str, identity: str = "") -> Measure:
    """Measures features of the audio.

    Args:
      extract: waveform `[samples]` and its sampling rate in Hz -> features `[n, d]`.
      kind: the name of the features.
      identity: of the model that extracts them.
    """

    def compute(item: Item) -> Measured:
        peak = np.abs(item.waveform).max(initial=0)
        if not 0 < peak < np.inf:
            raise UserError("the sound is silent" if peak == 0 else "the sound is not finite")
        return {}, {kind: extract(item.waveform, item.sampling_rate)}

    return Measure(f"{kind} features", identity, compute, ("audio",))


def squares(gray: np.ndarray) -> np.ndarray:
    """Cuts a gray image into adjacent squares, so that networks which take squares do not squeeze it.

    `[h, w]` in [0, 1] -> uint8 `[n, side, side, 3]`, where `side` is the smaller of h and w. A rest is left out.
    """
    height, width = gray.shape
    side = min(height, width)
    levels = np.rint(np.asarray(gray, np.float32) * 255).astype(np.uint8)
    rows, columns = (range(0, length - side + 1, side) for length in (height, width))
    cut = [levels[i : i + side, j : j + side] for i in rows for j in columns]
    return np.repeat(np.stack(cut)[..., None], 3, axis=-1)
