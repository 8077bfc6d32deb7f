"""Scores of samples, by any callable: a scorer takes items and gives columns for their records.

    def loudness(items):
        return {"loudness": [float(np.abs(item.waveform).mean()) for item in items]}

In a config it goes by its place, as `scorers = "my_package.my_module:loudness"`; several are parted by commas. Those of
`its_jax.similarity` go by the names `clip` and `clap`, alone or with a model: `scorers = "clip,clap@FOLDER"`. Alone
they stand for the paper's models, and in sweeps of embedded models for those that come with the package.
"""

import dataclasses
import importlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from its_jax import jobs
from its_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Item:
    """What a scorer is given of a sample.

    Attributes:
      job: its settings. pictures: term -> float32 `[h, w, 3]` in [0, 1]. spectrogram: `[h, w]` in [0, 1].
      waveform: float32 `[samples]` in [-1, 1] at `sampling_rate` Hz.
    """

    job: Mapping[str, Any]
    pictures: Mapping[str, np.ndarray]
    spectrogram: np.ndarray
    waveform: np.ndarray
    sampling_rate: int


OWN = ("clip", "clap")
EMBEDDED = "tiny/"  # what the names of models that come with the package begin with

# Items -> column -> a number for each item, of which more is better, or None where there is nothing to tell.
Scorer = Callable[[Sequence[Item]], Mapping[str, Sequence[float | None]]]


def are_embedded(jobs: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the pictures of all jobs, or records, are those of models that come with the package."""
    return all(job["image"]["model"].startswith(EMBEDDED) for job in jobs)


def of_jobs(names: str, jobs: Iterable[Mapping[str, Any]]) -> str:
    """The names with the models that come with the package for `clip` and `clap` alone, if they score only samples of
    such models."""
    if not are_embedded(jobs):
        return names
    parts = [name.strip() for name in names.split(",")]
    return ",".join(f"{name}@{EMBEDDED}{name}" if name in OWN else name for name in parts)


def own(names: str) -> list[str]:
    """Of the scorers, those of `its_jax.similarity`, whose columns have their names."""
    return [own for own in OWN if any(own == name.strip().partition("@")[0] for name in names.split(","))]


def check(names: str) -> None:
    """What `load` does, but for the models of `its_jax.similarity`. UserError: as `load`."""
    load(",".join(name for name in names.split(",") if not own(name)))


def load(names: str) -> list[Scorer]:
    """'clip, clap@MODEL, package.module:scorer, ...' -> the scorers.

    Raises:
      UserError: there is none of that name, or its model cannot be had.
    """
    return [_load(name.strip()) for name in names.split(",") if name.strip()]


def scores(scorers: Sequence[Scorer], item: Item) -> dict[str, dict[str, float]]:
    """What a record tells of the scores of one item: nothing, without a scorer. What is no finite number is told of,
    and left out.

    Raises:
      UserError: a scorer fails.
    """
    found = {column: values[0] for scorer in scorers for column, values in _columns(scorer, item).items()}
    found = {column: float(value) for column, value in found.items() if value is not None}
    for column in [column for column, value in found.items() if not math.isfinite(value)]:
        logging.warning(
            "%s: its score %s is %s, and is left out: scorers must give finite numbers",
            jobs.job_id(item.job), column, found.pop(column),
        )  # fmt: skip
    return {"scores": found} if scorers else {}


def _columns(scorer, item):
    try:
        return scorer([item])
    except UserError:
        raise
    except Exception as error:  # it is the user's program
        raise UserError(
            f"the scorer {scorer.__module__}:{getattr(scorer, '__name__', type(scorer).__name__)} fails: {error!r}"
        ) from error


def _load(name):
    own, at, source = name.partition("@")
    if own in OWN:
        from its_jax import similarity  # needs JAX, as this module does not

        scorer = getattr(similarity, own.capitalize())
        return scorer(source) if at else scorer()
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"scorers={name!r}: must be {', '.join(OWN)} or 'package.module:function' ({error})") from error
