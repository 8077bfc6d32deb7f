"""Summarizes the scores of work folders: means, Frechet distances and seconds, for each group of samples."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from its_jax.errors import UserError
from its_jax.evaluate import score_cache
from its_jax.evaluate.measures import Measure
from its_jax.evaluate.report import Row
from its_jax.evaluate.score_cache import CachedScore
from its_jax.scoring import metrics
from its_jax.scoring.metrics import Gaussian
from its_jax.settings.records import STAGES, settings_of
from its_jax.settings.schema import term_names
from its_jax.storage import samples
from its_jax.storage.samples import Sample

# For each distance, `FID` or `FAD`: the kind of features, and the reference.
References = Mapping[str, tuple[str, Gaussian]]


def aggregate_rows(
    workdir: Path,
    measures: Sequence[Measure],
    references: References,
    by: str = "",
    label: str = "",
) -> tuple[list[Row], list[str]]:
    """Summarizes a work folder.

    Args:
      by: a setting, such as `method` or `image.weight`; each of its values gets a row.
      label: the name of the rows; by default that of the folder.

    Returns:
      a row for each value of `by` and each size of canvas, and what is wrong with the samples.

    Raises:
      UserError: the folder has no samples, or they do not have the setting.
    """
    finished, cached = samples.open_samples(workdir), score_cache.read(workdir)
    rows, faults = [], list(finished.faults)
    if not finished:
        raise UserError(f"{workdir}: has no finished samples yet")
    label = label or workdir.name or str(workdir)
    for value, group in _by_setting(finished.values(), by):
        name = f"{label}: {by}={value}" if by else label
        canvases = by_canvas(group)
        if len(canvases) > 1:
            faults.append(f"{name}: has samples of {' and '.join(canvases)} pixels, whose scores do not compare")
        for canvas, own in canvases.items():
            row_name = f"{name}: {canvas}" if len(canvases) > 1 else name
            rows.append(_row(row_name, own, measures, cached, references))
    return rows, faults


def _by_setting(finished: Iterable[Sample], by: str) -> list[tuple[Any, list[Sample]]]:
    """Groups samples by the value of a setting, numbers before strings; a single group without a setting."""
    groups: dict[Any, list[Sample]] = {}
    for sample in finished:
        groups.setdefault(samples.get_setting(sample.record, by) if by else "", []).append(sample)

    def order(value):
        return (0, value, "") if isinstance(value, float | int) else (1, 0, str(value))

    return [(value, groups[value]) for value in sorted(groups, key=order)]


def by_canvas(finished: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Groups samples by canvas, '128 x 512' or '128 x 512 cropped'; scores of different canvases do not compare."""
    groups: dict[str, list[Sample]] = {}
    for sample in finished:
        cropped = any(sample.record.get(name, False) for name in ("crop_image", "cutoff_latent"))
        canvas = "{height} x {width}".format(**sample.record) + " cropped" * cropped
        groups.setdefault(canvas, []).append(sample)
    return dict(sorted(groups.items()))


def _row(
    name: str,
    group: Sequence[Sample],
    measures: Sequence[Measure],
    cached: Mapping[score_cache.Key, CachedScore],
    references: References,
) -> Row:
    found: dict[str, dict[str, CachedScore]] = {sample.id: {} for sample in group}
    for sample in group:
        for measure in measures:
            key = score_cache.key(sample, measure.name, measure.identity)
            if key in cached:
                found[sample.id][measure.name] = cached[key]
    faults = [
        f"{sample_id}: no {measure}: {score.fault}"
        for sample_id, by_measure in found.items()
        for measure, score in by_measure.items()
        if score.fault
    ]
    valid, invalid = _valid_scores(group, measures, found)
    columns: dict[str, list[float]] = {}
    for scores in valid:
        for column, value in scores.items():
            columns.setdefault(column, []).append(value)
    both = [(scores["clip"], scores["clap"]) for scores in valid if {"clip", "clap"} <= scores.keys()]
    means = {column: (*metrics.mean_and_half_width(values), len(values)) for column, values in columns.items()}
    distances, missing = _distances(name, found, references)
    return Row(name, len(group), means, distances, _median_seconds(group), [*faults, *invalid, *missing], both)


def _valid_scores(
    group: Iterable[Sample], measures: Sequence[Measure], found: Mapping[str, Mapping[str, CachedScore]]
) -> tuple[list[dict[str, float]], list[str]]:
    """Collects recorded and later scores of the same models; later ones take precedence.

    Returns:
      scores by column for each sample, and which others do not count.
    """
    valid, faults = [], []
    for sample in group:
        scores = sample.record.get("scores") or {}
        if not isinstance(scores, Mapping):
            faults.append(f"{sample.id}: the scores in its record are {scores!r}; they do not count")
            scores = {}
        other_models = _columns_of_other_models(sample.record, measures)
        scores = {column: value for column, value in scores.items() if column not in other_models}
        for score in found[sample.id].values():
            scores |= score.scores
        valid.append({column: value for column, value in scores.items() if score_cache.is_finite(value)})
        faults += [
            f"{sample.id}: its score {column} is {value!r}; it does not count"
            for column, value in scores.items()
            if column not in valid[-1]
        ]
    return valid, faults


def _columns_of_other_models(record: Mapping[str, Any], measures: Iterable[Measure]) -> set[str]:
    names = {measure.name for measure in measures if not measure.scored(record)}
    return names | {f"{name}_{term}" for name in names for term in term_names(settings_of(record))}


def _distances(
    name: str, found: Mapping[str, Mapping[str, CachedScore]], references: References
) -> tuple[dict[str, float], list[str]]:
    """Returns the distances from the references, and why some of them cannot be computed."""
    distances, faults = {}, []
    scores = [score for by_measure in found.values() for score in by_measure.values()]
    for distance, (kind, reference) in references.items():
        features = [score.features[kind] for score in scores if kind in score.features]
        try:
            distances[distance] = _distance(f"{name}, {distance}", features, reference)
        except UserError as error:
            faults.append(f"{distance}: {error}")
    return distances, faults


def _distance(name: str, features: Sequence[np.ndarray], reference: Gaussian) -> float:
    metrics.check_sample_count(len(features))
    stacked = np.concatenate(features)
    count, size = stacked.shape
    if count <= size:
        logging.warning(
            "%s: the Frechet distance of %d features of %d numbers is larger than that of many; compare only with sets "
            "of this size",
            name,
            count,
            size,
        )
    return metrics.frechet_distance(Gaussian.fit(stacked), reference)


def _median_seconds(group: Iterable[Sample]) -> float | None:
    """Returns the median duration of a sample: its share of each stage of its batch, and its writing."""
    found = []
    for sample in group:
        seconds, size = sample.record.get("seconds", {}), sample.record.get("run", {}).get("batch_size", 1)
        if all(stage in seconds for stage in STAGES):
            found.append(sum(seconds[stage] for stage in STAGES) / size + seconds.get("write", 0.0))
    return float(np.median(found)) if found else None
