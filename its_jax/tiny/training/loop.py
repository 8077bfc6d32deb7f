"""The training loop of all stages: AdamW, an average of the weights, and checkpoints that resume to the bit."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from orbax.checkpoint import v1 as ocp

from its_jax.tiny.training.schedule import Stage

SAVE_EVERY_S = 120.0
LOG_EVERY = 100

Params = Any  # a pytree of float32 arrays
Batch = Any  # a pytree of arrays
Loss = Callable[[Params, Batch, Array], Array]  # parameters, batch, random key -> scalar
_State = dict[str, Any]  # parameters, their average, the optimizer's moments, and the step
_Module = TypeVar("_Module", bound=nnx.Module)


class Result(NamedTuple):
    """A finished stage: the averaged parameters, the seconds of all runs, and the held-out figures."""

    params: Params
    seconds: float
    figures: dict[str, float]


def fit(
    loss: Loss,
    params: Params,
    batches: Callable[[int], Batch],
    stage: Stage,
    folder: Path,
    *,
    rates: Params | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> tuple[Params, float]:
    """Minimizes `loss`, which is jitted here, and resumes an interrupted training.

    Args:
      batches: step -> batch, a pure function, so that a resumed training gets the batches of an uninterrupted one.
      folder: the folder of checkpoints. A finished stage is only restored.
      rates: factors on the learning rate, one number for each parameter. None is 1 for all.

    Returns:
      the averaged parameters, and the seconds of all runs.

    Raises:
      FloatingPointError: the loss is not finite.
    """
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(stage.learning_rate(), b2=0.99, weight_decay=1e-3)
    )
    update = _update_function(loss, optimizer, stage.ema, rates)
    state: _State = dict(params=params, average=params, moments=optimizer.init(params), step=jnp.zeros((), jnp.int32))
    state, spent = _restore(folder, state)
    first = int(state["step"])
    if first > 0:
        logging.info("%s: resumed at step %d of %d", folder.name, first, stage.steps)
    if first >= stage.steps:
        return state["average"], spent
    start, saved_at, values = time.time(), time.time(), []
    for step in range(first, stage.steps):
        state, value = update(state, batches(step))
        values.append(value)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == stage.steps:
            _log(folder.name, step + 1, stage.steps, values, (time.time() - start) / (step + 1 - first))
            values = []
        if time.time() - saved_at > save_every_s and step + 1 < stage.steps:
            _save(folder, state, spent + time.time() - start)
            saved_at = time.time()
    spent += time.time() - start
    _save(folder, state, spent)
    return state["average"], spent


def _update_function(
    loss: Loss, optimizer: optax.GradientTransformation, ema: float, rates: Params | None
) -> Callable[[_State, Batch], tuple[_State, Array]]:
    """Returns the jitted training step, from a state and a batch to the next state and the loss."""

    @jax.jit
    def update(state, batch):
        step = state["step"]
        value, gradient = jax.value_and_grad(loss)(state["params"], batch, jax.random.key(step))
        updates, moments = optimizer.update(gradient, state["moments"], state["params"])
        if rates is not None:
            updates = jax.tree.map(jnp.multiply, updates, rates)
        params = optax.apply_updates(state["params"], updates)
        # The memory is short at first, so that the average forgets the random weights.
        decay = jnp.minimum(ema, (1 + step) / (10 + step))
        average = optax.incremental_update(params, state["average"], 1 - decay)
        return dict(params=params, average=average, moments=moments, step=step + 1), value

    return update


def _log(name: str, step: int, steps: int, values: list[Array], seconds_per_step: float) -> None:
    """Logs the mean loss since the last log line, and raises FloatingPointError if it is not finite."""
    mean = float(jnp.stack(values).mean())
    logging.info("%s: step %d of %d, loss %.5f, %.2f s per step", name, step, steps, mean, seconds_per_step)
    if not jnp.isfinite(mean):
        raise FloatingPointError(f"{name}: the loss is not finite at step {step}")


def _save(folder: Path, state: _State, spent: float) -> None:
    """Writes a checkpoint and removes older ones."""
    name = f"step_{int(state['step'])}"
    ocp.save(folder / name, dict(state=state, spent=spent), overwrite=True)
    for old in folder.glob("step_*"):
        if old.name != name:
            shutil.rmtree(old, ignore_errors=True)


def _restore(folder: Path, state: _State) -> tuple[_State, float]:
    """Returns the last saved state and the seconds spent until then. Without a checkpoint it returns `state` and 0."""
    saved = [path for path in folder.glob("step_*") if path.name[5:].isdigit()]
    if not saved:
        return state, 0.0
    last = max(saved, key=lambda path: int(path.name[5:]))
    restored = ocp.load(last, dict(state=jax.eval_shape(lambda: state), spent=0.0))
    return restored["state"], float(restored["spent"])


def save_result(folder: Path, params: Params) -> None:
    """Writes the averaged parameters of a finished stage."""
    ocp.save(folder / "result", params, overwrite=True)


def load_result(module: _Module, folder: Path) -> _Module:
    """Returns a module like `module` with the averaged parameters of a finished stage."""
    graph, params = nnx.split(module)
    return nnx.merge(graph, ocp.load(folder / "result", jax.eval_shape(lambda: params)))
