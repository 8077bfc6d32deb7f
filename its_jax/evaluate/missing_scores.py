"""Measures the finished samples of a work folder, each once."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from its_jax.errors import UserError
from its_jax.evaluate import score_cache
from its_jax.evaluate.measures import Measure, read_item
from its_jax.evaluate.score_cache import CachedScore
from its_jax.storage import locks, samples
from its_jax.storage.samples import Sample

Missing = tuple[Sample, Measure, score_cache.Key]


def score_missing(workdir: Path, measures: Sequence[Measure], shard: tuple[int, int] = (0, 1)) -> None:
    """Measures what was not measured yet in a shard of the samples, and keeps it beside them.

    A sample that cannot be measured is logged. It is kept as such, and tried again the next time.

    Args:
      shard: index and count.

    Raises:
      UserError: no such folder, another process measures the same shard, or results cannot be written.
    """
    index, count = shard
    own = list(samples.open_samples(workdir).values())[index::count]
    name = f"{index}-of-{count}"
    with locks.hold(workdir, f"scores-{name}"):
        missing = find_missing(workdir, own, measures, retry=True)
        writer = score_cache.Writer(workdir, name)
        try:
            for sample, measure, key in tqdm(missing, desc=f"score {workdir}", disable=not missing):
                writer.add(key, _measure(sample, measure))
        finally:
            writer.close()


def find_missing(
    workdir: Path, finished: Iterable[Sample], measures: Sequence[Measure], *, retry: bool = False
) -> list[Missing]:
    """Returns what was measured neither here nor when the sample was generated.

    Args:
      retry: whether to include what could not be measured before.
    """
    cached = score_cache.read(workdir)
    known = {key for key, score in cached.items() if not (retry and score.fault)}
    keys = (
        (sample, measure, score_cache.key(sample, measure.name, measure.identity))
        for sample in finished
        for measure in measures
    )
    return [
        (sample, measure, key)
        for sample, measure, key in keys
        if key not in known and not _is_recorded(sample.record, measure)
    ]


def _is_recorded(record: Mapping[str, Any], measure: Measure) -> bool:
    """Returns whether a sample's record has the score, by the same model."""
    scores = record.get("scores")
    return measure.scored(record) and isinstance(scores, Mapping) and score_cache.is_finite(scores.get(measure.name))


def _measure(sample: Sample, measure: Measure) -> CachedScore:
    try:
        scores, features = measure.compute(read_item(sample, measure.needs))
        for column, value in scores.items():
            if not math.isfinite(value):
                raise UserError(f"{column} is not a finite number")
    except UserError as error:
        logging.warning("%s: no %s: %s", sample.id, measure.name, error)
        return CachedScore({}, {}, str(error))
    return CachedScore(scores, features)
