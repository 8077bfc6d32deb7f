"""Measures the finished samples of a work folder, each once, and sums up what was found."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from its_jax import jobs, locks, metrics, samples
from its_jax.errors import UserError
from its_jax.evaluation import kept
from its_jax.evaluation.measures import Measure
from its_jax.evaluation.report import Row
from its_jax.metrics import Gaussian
from its_jax.scoring import Item

_STAGES = ("encode", "denoise", "decode", "vocode")  # of a batch; writing is of one sample


def measure(workdir: Path, measures: Sequence[Measure], share: tuple[int, int] = (0, 1)) -> None:
    """Measures what was not measured yet of this share (index, count) of the samples, and keeps it beside them.

    A sample that cannot be measured is told of, and kept as such.

    Raises:
      UserError: there is no such folder, another process measures the same share, or nothing can be written.
    """
    mine = [sample for i, sample in enumerate(samples.open(workdir).values()) if i % share[1] == share[0]]
    name = "{}-of-{}".format(*share)
    with locks.held(workdir, f"scores-{name}"):
        todo = missing(workdir, mine, measures)
        writer = kept.Writer(workdir, name)
        try:
            for sample, one, key in tqdm(todo, desc=f"score {workdir}", disable=not todo):
                writer.add(key, _entry(sample, one))
        finally:
            writer.close()


def missing(
    workdir: Path, made: Iterable[samples.Sample], measures: Sequence[Measure]
) -> list[tuple[samples.Sample, Measure, kept.Key]]:
    """What was not measured yet, neither here nor when the sample was made."""
    known = kept.read(workdir)
    keys = ((sample, one, kept.key(sample, one.name, one.identity)) for sample in made for one in measures)
    return [(sample, one, key) for sample, one, key in keys if key not in known and not _is_told(sample, one)]


def _is_told(sample, one):
    """Whether the record has the scores, of the same model (see `its_jax.production`)."""
    return bool(one.identity) and sample.record.get("models", {}).get(one.name) == one.identity


def _entry(sample, one):
    try:
        scores, features = one.of(item(sample))
        if bad := [column for column, value in scores.items() if not math.isfinite(value)]:
            raise UserError(f"{bad[0]} is not a finite number")
    except UserError as error:
        logging.warning("%s: no %s, for %s", sample.id, one.name, error)
        return kept.Entry({}, {}, str(error))
    return kept.Entry(scores, features)


def item(sample: samples.Sample) -> Item:
    """What is measured of a finished sample. UserError: one of its files is missing or cannot be read."""
    waveform, rate = sample.waveform()
    pictures = {name: sample.picture(name) for name in sample.pictures if name != "spectrogram"}
    return Item(jobs.settings_of(sample.record), pictures, sample.picture(), waveform, rate)


def rows(
    workdir: Path,
    measures: Sequence[Measure],
    references: Mapping[str, tuple[str, Gaussian]],
    by: str = "",
) -> list[Row]:
    """One for a work folder, or for each value that a setting has in it.

    Args:
      references: `FID` or `FAD` -> kind of features, and those of the reference.
      by: the setting, such as `method` or `image.weight`.

    Raises:
      UserError: no sample, or none with that setting; samples of several canvases in one row.
    """
    made, known = samples.open(workdir), kept.read(workdir)
    if not made:
        raise UserError(f"{workdir}: there is no finished sample in it")
    label = str(workdir).rstrip("/").rpartition("/")[2]
    if not by:
        return [_row(label, list(made.values()), measures, known, references)]
    groups: dict[Any, list[samples.Sample]] = {}
    for sample in made.values():
        groups.setdefault(setting(sample.record, by), []).append(sample)
    return [_row(f"{label}: {by}={value}", group, measures, known, references) for value, group in groups.items()]


def setting(record: Mapping[str, Any], name: str) -> Any:
    """A sample's setting by its full name, such as `image.weight`. UserError: it has none of that name."""
    value = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(f"--by={name}: the samples have no such setting; take one as method or image.weight")
        value = value[part]
    return value


def _row(name, group, measures, known, references):
    canvases = sorted({(sample.record["height"], sample.record["width"]) for sample in group})
    if len(canvases) > 1:
        sizes = " and ".join(f"{height} x {width}" for height, width in canvases)
        raise UserError(
            f"{name}: has samples of {sizes} pixels, whose scores do not compare; give --by=width or --by=height"
        )
    entries = {
        (sample.id, one.name): known[key]
        for sample in group
        for one in measures
        if (key := kept.key(sample, one.name, one.identity)) in known
    }
    faults = [f"{sample}: no {what}: {entry.fault}" for (sample, what), entry in entries.items() if entry.fault]
    found: dict[str, list[kept.Entry]] = {sample.id: [] for sample in group}
    for (sample, _), entry in entries.items():
        found[sample].append(entry)
    means, distances = _means(group, found), {}
    for distance, (kind, reference) in references.items():
        features = [
            entry.features[kind] for of_sample in found.values() for entry in of_sample if kind in entry.features
        ]
        try:
            distances[distance] = _distance(features, reference)
        except UserError as error:
            faults.append(f"{distance}: {error}")
    return Row(name, len(group), means, distances, _seconds(group), faults)


def _means(group, found):
    """Of what the records tell, and of what was measured since, which goes before."""
    values: dict[str, list[float]] = {}
    for sample in group:
        scores = dict(sample.record.get("scores", {}))
        for entry in found[sample.id]:
            scores |= entry.scores
        for column, value in scores.items():
            if math.isfinite(value):
                values.setdefault(column, []).append(value)
            else:
                logging.warning("%s: its score %s is %s; it does not count", sample.id, column, value)
    return {column: (*metrics.mean_and_reach(of), len(of)) for column, of in values.items()}


def _distance(features, reference):
    if not features:
        raise UserError("no sample has features")
    features = np.concatenate(features)
    if len(features) <= features.shape[1]:
        logging.warning(
            "a Frechet distance of %d features of %d numbers is larger than that of many would be: compare sets of one "
            "size only",
            *features.shape,
        )
    return metrics.frechet(Gaussian.of(features), reference)


def _seconds(group: Iterable[samples.Sample]) -> float | None:
    """Of a sample, the median: stages of its batch, shared by its samples, and its own writing."""
    found = []
    for sample in group:
        seconds, size = sample.record.get("seconds", {}), sample.record.get("run", {}).get("batch_size", 1)
        if all(stage in seconds for stage in _STAGES):
            found.append(sum(seconds[stage] for stage in _STAGES) / size + seconds.get("write", 0.0))
    return float(np.median(found)) if found else None
