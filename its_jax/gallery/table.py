"""The data of the page: columns that hold each different value once, so that 10,000 samples take little space."""

import io
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import soundfile
from PIL import Image

from its_jax.errors import UserError
from its_jax.gallery import axes
from its_jax.storage.samples import Sample

_SCORE_DIGITS = 6
# The settings that determine the size of image and audio. Files are opened once for each combination.
_CANVAS = ("width", "height", "crop_image", "cutoff_latent", "audio.model")


def build_table(samples: Sequence[Sample], folder_name: Callable[[Sample], str]) -> dict[str, Any]:
    """Returns the data of the page in JSON's types, with the samples in the order of their settings.

    Args:
      folder_name: returns the folder of a sample's files relative to the page, whose last part is the sample's id.
    """
    settings = axes.columns_of([sample.record for sample in samples])
    order = axes.sort_order(settings)
    samples = [samples[i] for i in order]
    settings = {name: [column[i] for i in order] for name, column in settings.items()}
    varying = axes.varying(settings)
    return {
        "ids": [sample.id for sample in samples],
        "common": {name: column[0] for name, column in settings.items() if name not in varying},
        "columns": {name: _encode(settings[name], values) for name, values in varying.items()},
        "scores": _scores([sample.record for sample in samples]),
        "canvas": _encode_in_order(_canvases(samples, settings)),
        "pictures": _encode_in_order([tuple(sample.image_names) for sample in samples]),
        "colors": _encode_in_order([_colorings(sample) for sample in samples]),
        "folders": _encode_in_order([folder_name(sample).removesuffix(sample.id) for sample in samples]),
    }


def _encode(column: Sequence[Hashable], values: Sequence[Hashable]) -> dict[str, Any]:
    """Encodes a column as its different values and, for each sample, the index of its value."""
    numbers = {value: number for number, value in enumerate(values)}
    return {"values": values, "index": [numbers[value] for value in column]}


def _encode_in_order(column: Sequence[Hashable]) -> dict[str, Any]:
    return _encode(column, list(dict.fromkeys(column)))


def _colorings(sample: Sample) -> tuple[tuple[str, str], ...]:
    """Returns name and prompt of each coloring."""
    return tuple((name, record["colorize"]["prompt"]) for name, record in sample.coloring_records().items())


def _scores(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    rows = [record.get("scores", {}) for record in records]
    names = sorted(set().union(*rows))
    return {name: [_rounded(row.get(name)) for row in rows] for name in names}


def _rounded(score: Any) -> float | None:
    """Rounds a score. What is missing or not a finite number becomes None, which is sorted last."""
    is_number = isinstance(score, int | float) and math.isfinite(score)
    return float(f"{score:.{_SCORE_DIGITS}g}") if is_number else None


def _canvases(samples: Sequence[Sample], settings: Mapping[str, Sequence[Any]]) -> list[tuple[int, int, float, int]]:
    """Returns width and height in pixels, seconds, and sampling rate in Hz of each sample."""
    keys = list(zip(*(settings[name] for name in _CANVAS), strict=True))
    canvases: dict[tuple[Any, ...], tuple[int, int, float, int]] = {}
    for key, sample in zip(keys, samples, strict=True):
        if key not in canvases:
            canvases[key] = _canvas(sample)
    return [canvases[key] for key in keys]


def _canvas(sample: Sample) -> tuple[int, int, float, int]:
    try:
        with Image.open(io.BytesIO(sample.read("spectrogram.png"))) as image:
            size = image.size
        audio = soundfile.info(io.BytesIO(sample.read(sample.audio_file)))
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"{sample.path}: image or audio of {sample.id} cannot be read ({error})") from error
    return *size, audio.duration, audio.samplerate
