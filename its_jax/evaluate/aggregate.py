"""Measures the finished samples of a work folder, each once, and sums up what was found."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from its_jax.errors import UserError
from its_jax.evaluate import score_cache
from its_jax.evaluate.measures import Measure
from its_jax.evaluate.report import Row
from its_jax.scoring import metrics
from its_jax.scoring.item import Item
from its_jax.scoring.metrics import Gaussian
from its_jax.settings.records import recorded_settings, settings_of
from its_jax.settings.schema import term_names
from its_jax.storage import locks, samples

_STAGES = ("encode", "denoise", "decode", "vocode")  # of a batch; writing is of one sample


def score_missing(workdir: Path, measures: Sequence[Measure], share: tuple[int, int] = (0, 1)) -> None:
    """Measures what was not measured yet of this share (index, count) of the samples, and keeps it beside them.

    A sample that cannot be measured is told of, kept as such, and tried again the next time.

    Raises:
      UserError: no such folder, another process measures the same share, or nothing can be written.
    """
    mine = [sample for i, sample in enumerate(samples.open_samples(workdir).values()) if i % share[1] == share[0]]
    name = "{}-of-{}".format(*share)
    with locks.hold(workdir, f"scores-{name}"):
        todo = missing(workdir, mine, measures, again=True)
        writer = score_cache.Writer(workdir, name)
        try:
            for sample, one, key in tqdm(todo, desc=f"score {workdir}", disable=not todo):
                writer.add(key, _entry(sample, one))
        finally:
            writer.close()


def missing(
    workdir: Path, made: Iterable[samples.Sample], measures: Sequence[Measure], *, again: bool = False
) -> list[tuple[samples.Sample, Measure, score_cache.Key]]:
    """What was not measured yet, neither here nor when the sample was made; `again`: or could not be."""
    known = {key: entry for key, entry in score_cache.read(workdir).items() if not (again and entry.fault)}
    keys = ((sample, one, score_cache.key(sample, one.name, one.identity)) for sample in made for one in measures)
    return [(sample, one, key) for sample, one, key in keys if key not in known and not _is_told(sample, one)]


def _is_told(sample, one):
    """Whether the record has the score, of the same model (see `its_jax.generate.record`)."""
    scores = sample.record.get("scores")
    return _is_same(sample, one) and isinstance(scores, Mapping) and _is_finite(scores.get(one.name))


def _is_same(sample, one):
    return bool(one.identity) and sample.record.get("models", {}).get(one.name) == one.identity


def _is_finite(value):
    return isinstance(value, float | int) and math.isfinite(value)


def _entry(sample, one):
    try:
        scores, features = one.of(item(sample, one.needs))
        if bad := [column for column, value in scores.items() if not math.isfinite(value)]:
            raise UserError(f"{bad[0]} is not a finite number")
    except UserError as error:
        logging.warning("%s: no %s, for %s", sample.id, one.name, error)
        return score_cache.CachedScore({}, {}, str(error))
    return score_cache.CachedScore(scores, features)


def item(sample: samples.Sample, needs: Sequence[str] = ("spectrogram", "sound")) -> Item:
    """What is measured of a finished sample; what is not needed is empty, as are the terms' pictures. UserError: a file
    that is needed is missing, cannot be read, or holds something else than a sample has there."""
    spectrogram, waveform, rate = np.zeros((0, 0), np.float32), np.zeros(0, np.float32), 0
    if "spectrogram" in needs:
        spectrogram = sample.read_image()
        if spectrogram.ndim != 2:
            raise UserError("spectrogram.png is in colour: it must be grey")
    if "sound" in needs:
        waveform, rate = sample.read_audio()
        if waveform.ndim != 1 or not len(waveform):
            raise UserError(f"{sample.audio_file} has {'more than one channel' if len(waveform) else 'no samples'}")
    return Item(recorded_settings(sample.record), {}, spectrogram, waveform, rate)


def aggregate_rows(
    workdir: Path,
    measures: Sequence[Measure],
    references: Mapping[str, tuple[str, Gaussian]],
    by: str = "",
    label: str = "",
) -> tuple[list[Row], list[str]]:
    """One for a work folder, or for each value that a setting has in it, and each size of canvas; and what is wrong.

    Args:
      references: `FID` or `FAD` -> kind of features, and those of the reference.
      by: the setting, such as `method` or `image.weight`. label: what rows are called; by default as the folder is.

    Raises:
      UserError: no sample, or none with that setting.
    """
    made, known = samples.open_samples(workdir), score_cache.read(workdir)
    found, faults = [], list(made.faults)
    if not made:
        raise UserError(f"{workdir}: has no finished samples yet")
    label = label or workdir.name or str(workdir)
    groups: dict[Any, list[samples.Sample]] = {}
    for sample in made.values():
        groups.setdefault(samples.get_setting(sample.record, by) if by else "", []).append(sample)
    for value in sorted(groups, key=_order):
        name = f"{label}: {by}={value}" if by else label
        sizes = by_canvas(groups[value])
        if len(sizes) > 1:
            faults.append(f"{name}: has samples of {' and '.join(sizes)} pixels, whose scores do not compare")
        for size, group in sizes.items():
            row_name = f"{name}: {size}" if len(sizes) > 1 else name
            found.append(_row(row_name, group, measures, known, references))
    return found, faults


def by_canvas(group: Iterable[samples.Sample]) -> dict[str, list[samples.Sample]]:
    """'128 x 512', or '128 x 512 cropped' -> samples: scores of different canvases do not compare."""
    sizes: dict[str, list[samples.Sample]] = {}
    for sample in group:
        cropped = any(sample.record.get(name, False) for name in ("crop_image", "cutoff_latent"))
        size = "{height} x {width}".format(**sample.record) + " cropped" * cropped
        sizes.setdefault(size, []).append(sample)
    return dict(sorted(sizes.items()))


def _order(value):
    """Numbers by their size, before all else by its words."""
    return (0, value, "") if isinstance(value, float | int) else (1, 0, str(value))


def _row(name, group, measures, known, references):
    entries = {
        (sample.id, one.name): known[key]
        for sample in group
        for one in measures
        if (key := score_cache.key(sample, one.name, one.identity)) in known
    }
    faults = [f"{sample}: no {what}: {entry.fault}" for (sample, what), entry in entries.items() if entry.fault]
    found: dict[str, list[score_cache.CachedScore]] = {sample.id: [] for sample in group}
    for (sample, _), entry in entries.items():
        found[sample].append(entry)
    means, distances = _means(group, measures, found, faults), {}
    for distance, (kind, reference) in references.items():
        features = [
            entry.features[kind] for of_sample in found.values() for entry in of_sample if kind in entry.features
        ]
        try:
            distances[distance] = _distance(f"{name}, {distance}", features, reference)
        except UserError as error:
            faults.append(f"{distance}: {error}")
    return Row(name, len(group), means, distances, _seconds(group), faults)


def _means(group, measures, found, faults):
    """Of what the records tell, by the same models, and of what was measured since, which goes before."""
    values: dict[str, list[float]] = {}
    for sample in group:
        scores = sample.record.get("scores") or {}
        if not isinstance(scores, Mapping):
            faults.append(f"{sample.id}: the scores in its record are {scores!r}; they do not count")
            scores = {}
        others = {one.name for one in measures if not _is_same(sample, one)}
        terms = term_names(settings_of(sample.record))
        foreign = others | {f"{name}_{term}" for name in others for term in terms}
        scores = {column: value for column, value in scores.items() if column not in foreign}
        for entry in found[sample.id]:
            scores |= entry.scores
        for column, value in scores.items():
            if _is_finite(value):
                values.setdefault(column, []).append(value)
            else:
                faults.append(f"{sample.id}: its score {column} is {value!r}; it does not count")
    return {column: (*metrics.mean_and_half_width(of), len(of)) for column, of in values.items()}


def _distance(name, features, reference):
    metrics.check_sample_count(len(features))
    features = np.concatenate(features)
    if len(features) <= features.shape[1]:
        logging.warning(
            "%s: a Frechet distance of %d features of %d numbers is larger than that of many would be: compare sets of "
            "one size only",
            name,
            *features.shape,
        )
    return metrics.frechet_distance(Gaussian.fit(features), reference)


def _seconds(group: Iterable[samples.Sample]) -> float | None:
    """Of a sample, the median: stages of its batch, shared by its samples, and its own writing."""
    found = []
    for sample in group:
        seconds, size = sample.record.get("seconds", {}), sample.record.get("run", {}).get("batch_size", 1)
        if all(stage in seconds for stage in _STAGES):
            found.append(sum(seconds[stage] for stage in _STAGES) / size + seconds.get("write", 0.0))
    return float(np.median(found)) if found else None
