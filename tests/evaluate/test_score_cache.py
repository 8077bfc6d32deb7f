"""Scores that are kept beside samples."""

import numpy as np

from its_jax.evaluate import score_cache
from its_jax.evaluate.score_cache import CachedScore, Key

KEY = Key("sample", "digest", "clip", "model")


def test_results_are_read_as_they_were_written(tmp_path):
    writer = score_cache.Writer(tmp_path, "0-of-1")
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    writer.add(KEY, CachedScore({"clip": 2.5}, {"clap": features}))
    writer.close()
    (found,) = score_cache.read(tmp_path).values()
    assert found.scores == {"clip": 2.5} and found.fault is None
    np.testing.assert_array_equal(found.features["clap"], features)


def test_results_are_written_at_intervals(tmp_path):
    writer = score_cache.Writer(tmp_path, "0-of-1", save_every_s=0.0)
    writer.add(KEY, CachedScore({"clip": 2.5}, {}))
    assert score_cache.read(tmp_path)[KEY].scores == {"clip": 2.5}


def test_scores_take_precedence_over_faults(tmp_path):
    for name, score in {"a": CachedScore({"clip": 1.0}, {}), "b": CachedScore({}, {}, "is silent")}.items():
        writer = score_cache.Writer(tmp_path, name)
        writer.add(KEY, score)
        writer.close()
    assert score_cache.read(tmp_path)[KEY].scores == {"clip": 1.0}
