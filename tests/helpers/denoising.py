"""Small fake models and runs for tests of `its_jax.diffusion`."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import torch
from jax.tree_util import Partial

from its_jax.diffusion import denoise
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import solver_table
from its_jax.diffusion.term_schedule import term_weights

SD15 = json.loads((pathlib.Path(__file__).parents[1] / "data/configs/sd15.scheduler.json").read_text())
SCHEDULE = NoiseSchedule.from_dict(SD15)
SHAPE = (4, 6, 4)  # h w c
TOKENS = (3, 5)  # n d


def fake_eps(weights, x, t, text):
    """Predicts noise that depends on every element of a latent, on the timestep and on the text."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    shift = (text.mean(axis=1) @ weights["text"])[:, None, None, :]
    return jnp.tanh(x @ weights["x"] + 0.2 * mean + shift + jnp.sin(t / 200.0)[:, None, None, None])


def torch_eps(weights, x, t, text):
    """Computes `fake_eps` in PyTorch."""
    weights = {name: torch.from_numpy(w) for name, w in weights.items()}
    mean = x.mean(dim=(1, 2), keepdim=True)
    shift = (text.mean(dim=1) @ weights["text"])[:, None, None, :]
    return torch.tanh(x @ weights["x"] + 0.2 * mean + shift + torch.sin(t / 200.0)[:, None, None, None])


def fake_weights(seed):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(scale=0.4, size=(4, 4)).astype(np.float32),
        "text": rng.normal(scale=0.3, size=(TOKENS[1], 4)).astype(np.float32),
    }


WEIGHTS = [fake_weights(1), fake_weights(2)]
MODELS = [Partial(fake_eps, weights) for weights in WEIGHTS]


def fake_texts(seed, b):
    return np.random.default_rng(seed).normal(size=(b, 2, *TOKENS)).astype(np.float32)


def make_run(
    b=2,
    num_steps=20,
    solver="ddim",
    starts=(2, 0),
    weights=(0.5, 0.5),
    guidance=(10, 10),
    seed=0,
    schedule=SCHEDULE,
):
    """Returns (terms, table, active, state, last) for `denoise`; settings are one per term or `[terms][b]`."""
    weights, starts, guidance = (
        np.broadcast_to(np.asarray(setting, np.float32).T, (b, 2)).T for setting in (weights, starts, guidance)
    )
    per_step, active = term_weights(weights, starts, num_steps, schedule)
    terms = [denoise.Term(fake_texts(10 * seed + i, b), guidance[i], per_step[i]) for i in range(2)]
    noise = denoise.initial_noise(np.arange(seed, seed + b, dtype=np.uint32), SHAPE)
    return (
        terms,
        solver_table(schedule, num_steps, solver),
        active,
        denoise.initial_state(noise),
        np.int32(num_steps),
    )


def sample(terms, table, active, state, last, models=MODELS):
    """Runs all steps of a run; a term is evaluated in its only mode wherever it is active."""
    return denoise.denoise(models, terms, table, active, state, np.int32(0), last)


def relative_error(ours, reference):
    return np.abs(ours - reference).max() / np.abs(reference).max()


def authors_loop(scheduler, terms, noise, starts=(0, 0), w=0.5):
    """Runs the published sampling loop in PyTorch: warm start, then (1 - w) image + w audio."""
    x = torch.from_numpy(np.array(noise)) * scheduler.init_noise_sigma
    for k, t in enumerate(scheduler.timesteps):
        pair = scheduler.scale_model_input(torch.cat([x, x]), t)
        eps = []
        for weights, term, start in zip(WEIGHTS, terms, starts, strict=True):
            if k >= start:
                text = torch.from_numpy(np.concatenate([term.texts[:, 0], term.texts[:, 1]]))
                negative, positive = torch_eps(weights, pair, t.float().repeat(len(pair)), text).chunk(2)
                s = torch.tensor(term.guidance_scale)[:, None, None, None]
                eps.append(negative + s * (positive - negative))
        fused = (1 - w) * eps[0] + w * eps[1] if len(eps) == 2 else eps[0]
        x = scheduler.step(fused, t, x).prev_sample
    return x.numpy()
