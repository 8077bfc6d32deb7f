"""One training loop for all stages: AdamW, an average of the weights, Orbax checkpoints, resume to the bit."""

import logging
import shutil
import time

import jax
import jax.numpy as jnp
import optax
from orbax.checkpoint import v1 as ocp

SAVE_EVERY_S = 120.0
LOG_EVERY = 100


def fit(loss, params, batches, stage, folder, rates=None):
    """Minimises `loss` and returns the averaged parameters and the seconds spent, those of earlier sittings included.

    Args:
      loss: `(params, batch, key) -> scalar`, jitted here.
      params: pytree of float32 arrays.
      batches: `step -> batch`, a pure function of the step, so that a resumed run sees what an unbroken one would.
      stage: `recipe.Stage`.
      folder: where checkpoints go; a finished stage is only restored.
      rates: factors on the learning rate, a number for each parameter; None is 1 for all.
    """
    adamw = optax.adamw(stage.learning_rate(), b2=0.99, weight_decay=1e-3)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adamw)

    @jax.jit
    def update(state, batch):
        step = state["step"]
        value, gradient = jax.value_and_grad(loss)(state["params"], batch, jax.random.key(step))
        updates, moments = optimizer.update(gradient, state["moments"], state["params"])
        if rates is not None:
            updates = jax.tree.map(jnp.multiply, updates, rates)
        params = optax.apply_updates(state["params"], updates)
        # A short memory at first, so that the average does not drag the random weights along.
        decay = jnp.minimum(stage.ema, (1 + step) / (10 + step))
        average = optax.incremental_update(params, state["average"], 1 - decay)
        return dict(params=params, average=average, moments=moments, step=step + 1), value

    state = dict(params=params, average=params, moments=optimizer.init(params), step=jnp.zeros((), jnp.int32))
    saved = sorted((p for p in folder.glob("step_*") if p.name[5:].isdigit()), key=lambda p: int(p.name[5:]))
    spent = 0.0
    if saved:
        restored = ocp.load(saved[-1], dict(state=jax.eval_shape(lambda: state), spent=0.0))
        state, spent = restored["state"], float(restored["spent"])
        logging.info("%s: resumed at step %d of %d", folder.name, state["step"], stage.steps)

    def save(state, spent):
        ocp.save(folder / f"step_{int(state['step'])}", dict(state=state, spent=spent), overwrite=True)
        for old in folder.glob("step_*"):
            if old.name != f"step_{int(state['step'])}":
                shutil.rmtree(old, ignore_errors=True)

    start, saved_at, values = time.time(), time.time(), []
    first = int(state["step"])
    for step in range(first, stage.steps):
        state, value = update(state, batches(step))
        values.append(value)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == stage.steps:
            mean = float(jnp.stack(values).mean())
            pace = (time.time() - start) / (step + 1 - first)
            logging.info("%s: step %d of %d, loss %.5f, %.2f s a step", folder.name, step + 1, stage.steps, mean, pace)
            values = []
            if not jnp.isfinite(mean):
                raise FloatingPointError(f"{folder.name}: the loss is not finite at step {step + 1}")
        if time.time() - saved_at > SAVE_EVERY_S and step + 1 < stage.steps:
            save(state, spent + time.time() - start)
            saved_at = time.time()
    if first < stage.steps:
        spent += time.time() - start
        save(state, spent)
    return state["average"], spent


def save_result(path, params):
    """Writes a stage's averaged parameters."""
    ocp.save(path / "result", params, overwrite=True)


def load_result(path, params):
    """Reads a stage's averaged parameters; `params` gives their shapes."""
    return ocp.load(path / "result", jax.eval_shape(lambda: params))
