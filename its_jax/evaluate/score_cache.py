"""Keeps scores in WORKDIR/scores/, in files of JSON lines. Files appear whole; a kill costs half a minute of work."""

import base64
import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from its_jax.storage import files
from its_jax.storage.samples import Sample

FOLDER = "scores"
SAVE_EVERY_S = 30.0


class Key(NamedTuple):
    """Identifies a result: the sample (by id and latents, because it may have been generated again) and the measure."""

    id: str
    latents: str
    measure: str
    identity: str


class CachedScore(NamedTuple):
    """The result of a measure; `fault` says why there is none."""

    scores: Mapping[str, float]
    features: Mapping[str, np.ndarray]
    fault: str | None = None


def key(sample: Sample, measure: str, identity: str) -> Key:
    """Returns the key of a sample's result.

    Args:
      measure, identity: name of the measure, and identity of its model.
    """
    return Key(sample.id, sample.record.get("run", {}).get("latents_sha256", ""), measure, identity)


def is_finite(value: Any) -> bool:
    """Returns whether a value from a JSON file is a finite number."""
    return isinstance(value, float | int) and math.isfinite(value)


def read(workdir: Path) -> dict[Key, CachedScore]:
    """Reads all results of a work folder. Scores take precedence over faults.

    Lines that cannot be read are logged and left out.
    """
    found: dict[Key, CachedScore] = {}
    for path in sorted((workdir / FOLDER).glob("*.jsonl")):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                key, score = _from_line(line)
            except (ValueError, TypeError, KeyError, AttributeError):
                logging.warning("%s, line %d: cannot be read; it is measured again", path, number)
                continue
            if key not in found or found[key].fault or not score.fault:
                found[key] = score
    return found


def scores(workdir: Path, finished: Mapping[str, Sample]) -> dict[str, dict[str, float]]:
    """Returns the scores of finished samples by id and column.

    Scores that were measured later take precedence over those in the samples' records.
    """
    recorded = {name: sample.record.get("scores") for name, sample in finished.items()}
    found = {name: dict(scores) if isinstance(scores, Mapping) else {} for name, scores in recorded.items()}
    for result, score in read(workdir).items():
        if result.id in finished and result == key(finished[result.id], result.measure, result.identity):
            found[result.id] |= score.scores
    return found


class Writer:
    """Adds results to a work folder. It must be closed.

    Args of the constructor:
      name: of its files, such as 0-of-2; no other writer may have it.
      save_every_s: results are written when this many seconds have passed.
    """

    def __init__(self, workdir: Path, name: str, save_every_s: float = SAVE_EVERY_S):
        self._folder, self._name = workdir / FOLDER, name
        self._save_every_s, self._saved = save_every_s, time.monotonic()
        self._lines: list[bytes] = []

    def add(self, key: Key, score: CachedScore) -> None:
        """Adds a result.

        Raises:
          UserError: results cannot be written.
        """
        self._lines.append(_to_line(key, score))
        if time.monotonic() - self._saved > self._save_every_s:
            self.close()

    def close(self) -> None:
        """Writes the results that were added since the last time.

        Raises:
          UserError: they cannot be written.
        """
        if self._lines:
            with files.explain_os_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            number = sum(1 for _ in self._folder.glob(f"{self._name}-*.jsonl"))
            files.write(self._folder / f"{self._name}-{number:05d}.jsonl", b"\n".join(self._lines) + b"\n")
        self._lines, self._saved = [], time.monotonic()


def _to_line(key: Key, score: CachedScore) -> bytes:
    features = {kind: _encode(array) for kind, array in score.features.items()}
    return json.dumps({"key": key, "scores": score.scores, "features": features, "fault": score.fault}).encode()


def _from_line(line: bytes) -> tuple[Key, CachedScore]:
    entry = json.loads(line)
    features = {kind: _decode(encoded) for kind, encoded in entry["features"].items()}
    return Key(*entry["key"]), CachedScore(entry["scores"], features, entry["fault"])


def _encode(array: np.ndarray) -> dict[str, Any]:
    return {"shape": array.shape, "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def _decode(encoded: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(encoded["float32"]), "<f4").reshape(encoded["shape"])
