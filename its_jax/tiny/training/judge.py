"""Trains a judge of 'picture' or 'sound', on disturbed data of its own splits, `judge_train` and `judge_held_out`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from its_jax.tiny.data import items
from its_jax.tiny.judges import Judge, classify
from its_jax.tiny.training import augment
from its_jax.tiny.training.loop import Result, fit
from its_jax.tiny.training.schedule import STAGES, Stage

TRAIN_ITEMS, HELD_OUT_ITEMS = 1800, 480
# Probability of the gaps that a vocoder leaves: judges of sounds classify the vocoder's waveform.
COMB = {"picture": 0.0, "sound": 0.5}


def train(
    kind: str,
    workdir: Path,
    *,
    stage: Stage = STAGES["judge"],
    num_train: int = TRAIN_ITEMS,
    num_held_out: int = HELD_OUT_ITEMS,
) -> Result:
    """Trains a judge."""
    canvases, others = _make_canvases(kind, "judge_train", num_train)

    def batches(step):
        rng = items.generator(f"judge {kind}", "judge_train", step)
        chosen = rng.integers(len(canvases), size=stage.batch)
        x = np.stack([augment.disturb(rng, canvases[i], others[rng.integers(len(others))], COMB[kind]) for i in chosen])
        return x.astype(np.float32), chosen % items.CLASSES

    graph, params = nnx.split(Judge(rngs=nnx.Rngs(0)))

    def loss(params, batch, key):
        x, labels = batch
        logits = jax.nn.log_softmax(nnx.merge(graph, params)(x))
        return -jnp.mean(logits[jnp.arange(len(labels)), labels])

    params, seconds = fit(loss, params, batches, stage, workdir / f"judge_{kind}")
    return Result(params, seconds, _held_out(nnx.merge(graph, params), kind, num_held_out))


def _make_canvases(kind: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes canvases of a kind and canvases of the other kind."""
    if kind == "picture":
        return items.make_pictures(split, count), items.make_spectrograms(split, count)
    return items.make_spectrograms(split, count), items.make_pictures(split, count)


def _held_out(judge: Judge, kind: str, count: int) -> dict[str, float]:
    """Returns the accuracies on clean and on disturbed canvases."""
    clean, others = _make_canvases(kind, "judge_held_out", count)
    rng = items.generator(f"judge {kind}", "judge_held_out", 0)
    disturbed = np.stack([augment.disturb(rng, x, others[rng.integers(len(others))], COMB[kind]) for x in clean])
    truth = items.labels(count)
    return {
        "held_out": float(np.mean(classify(judge, clean / np.float32(255)) == truth)),
        "held_out_disturbed": float(np.mean(classify(judge, disturbed) == truth)),
    }
