"""What was measured, in WORKDIR/scores/: files of JSON lines that appear whole: a kill costs half a minute."""

import base64
import json
import logging
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
    """What was measured: which sample (by id and latents, for it may have been made anew), and by what."""

    id: str
    latents: str
    measure: str
    identity: str


class CachedScore(NamedTuple):
    """What was found; `fault` says why nothing was."""

    scores: Mapping[str, float]
    features: Mapping[str, np.ndarray]
    fault: str | None = None


def key(sample: Sample, measure: str, identity: str) -> Key:
    return Key(sample.id, sample.record.get("run", {}).get("latents_sha256", ""), measure, identity)


def read(workdir: Path) -> dict[Key, CachedScore]:
    """Everything in a work folder; what was found goes before faults. Lines that cannot be read are told of and count
    as not there."""
    found: dict[Key, CachedScore] = {}
    for path in sorted((workdir / FOLDER).glob("*.jsonl")):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                entry = json.loads(line)
                features = {kind: _array(raw) for kind, raw in entry["features"].items()}
                key, new = Key(*entry["key"]), CachedScore(entry["scores"], features, entry["fault"])
                if key not in found or found[key].fault or not new.fault:
                    found[key] = new
            except (ValueError, TypeError, KeyError, AttributeError):
                logging.warning("%s, line %d: cannot be read; it is measured again", path, number)
    return found


def scores(workdir: Path, made: Mapping[str, Sample]) -> dict[str, dict[str, float]]:
    """Sample -> column -> score, of these finished samples: what their records tell, and what was measured later, which
    goes before."""
    told = {name: sample.record.get("scores") for name, sample in made.items()}
    found = {name: dict(scores) if isinstance(scores, Mapping) else {} for name, scores in told.items()}
    for of, entry in read(workdir).items():
        if of.id in made and of == key(made[of.id], of.measure, of.identity):
            found[of.id] |= entry.scores
    return found


class Writer:
    """Adds to a work folder under a name of its own, such as 0-of-2; to be closed."""

    def __init__(self, workdir: Path, name: str):
        self._folder, self._name, self._saved = workdir / FOLDER, name, time.monotonic()
        self._lines: list[bytes] = []

    def add(self, key: Key, entry: CachedScore) -> None:
        """UserError: cannot write."""
        features = {kind: _raw(array) for kind, array in entry.features.items()}
        line = {"key": key, "scores": entry.scores, "features": features, "fault": entry.fault}
        self._lines.append(json.dumps(line).encode())
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.close()

    def close(self) -> None:
        if self._lines:
            with files.explain_os_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            number = sum(1 for _ in self._folder.glob(f"{self._name}-*.jsonl"))
            files.write(self._folder / f"{self._name}-{number:05d}.jsonl", b"\n".join(self._lines) + b"\n")
        self._lines, self._saved = [], time.monotonic()


def _raw(array: np.ndarray) -> dict[str, Any]:
    return {"shape": array.shape, "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def _array(raw):
    return np.frombuffer(base64.b64decode(raw["float32"]), "<f4").reshape(raw["shape"])
