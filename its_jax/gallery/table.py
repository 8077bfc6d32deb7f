"""Samples -> the data of the page: columns, each different value once, so that 10,000 samples take little."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import soundfile
from PIL import Image

from its_jax.errors import UserError
from its_jax.gallery import axes
from its_jax.storage.samples import Sample

_DIGITS = 6  # of a score
# What decides the size of picture and sound: files are looked into once for each of these.
_CANVAS = ("width", "height", "crop_image", "cutoff_latent", "audio.model")


def build_table(samples: Sequence[Sample], folder: Callable[[Sample], str]) -> dict[str, Any]:
    """What the page is told, in JSON's values; samples in the order of their settings.

    Args:
      folder: of a sample's files, relative to the page. Its last part is the sample's id.
    """
    settings = axes.columns_of([sample.record for sample in samples])
    order = axes.sort_order(settings)
    samples = [samples[i] for i in order]
    settings = {name: [column[i] for i in order] for name, column in settings.items()}
    varying = axes.varying(settings)
    return {
        "ids": [sample.id for sample in samples],
        "common": {name: column[0] for name, column in settings.items() if name not in varying},
        "columns": {name: _coded(settings[name], values) for name, values in varying.items()},
        "scores": _scores([sample.record for sample in samples]),
        "canvas": _plainly_coded(_canvases(samples, settings)),
        "pictures": _plainly_coded([tuple(sample.pictures) for sample in samples]),
        "colors": _plainly_coded([_colors(sample) for sample in samples]),
        "folders": _plainly_coded([folder(sample).removesuffix(sample.id) for sample in samples]),
    }


def _coded(column, values):
    """Each value once, and its number for each sample."""
    numbers = {value: number for number, value in enumerate(values)}
    return {"values": values, "index": [numbers[value] for value in column]}


def _plainly_coded(column):
    return _coded(column, list(dict.fromkeys(column)))


def _colors(sample):
    """Name and prompt of each coloured picture."""
    return tuple((name, record["colorize"]["prompt"]) for name, record in sample.color_records().items())


def _scores(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    scores = [record.get("scores", {}) for record in records]
    names = sorted(set().union(*scores))
    return {name: [_rounded(of.get(name)) for of in scores] for name in names}


def _rounded(score):
    """None, which sorts last, for what is missing or no number."""
    is_number = isinstance(score, int | float) and math.isfinite(score)
    return float(f"{score:.{_DIGITS}g}") if is_number else None


def _canvases(samples, settings):
    """Width and height in pixels, seconds and sampling rate in Hz, of each sample."""
    kinds = list(zip(*(settings[name] for name in _CANVAS), strict=True))
    known = {}
    for kind, sample in zip(kinds, samples, strict=True):
        if kind not in known:
            known[kind] = _canvas(sample)
    return [known[kind] for kind in kinds]


def _canvas(sample):
    try:
        with Image.open(io.BytesIO(sample.read("spectrogram.png"))) as picture:
            size = picture.size
        sound = soundfile.info(io.BytesIO(sample.read(sample.sound)))
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"{sample.place}: picture or sound of {sample.id} cannot be read ({error})") from error
    return *size, sound.duration, sound.samplerate
