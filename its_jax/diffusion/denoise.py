"""Images that Sound: several diffusion models denoise one latent together (Chen, Geng, Owens; arXiv 2405.12221).

At each step every model predicts the noise in the shared latent, seen through its own view and guided by its own
prompt. The solver follows the weighted average of these predictions:

    eps_i = V_i^-1( eps_i(V_i x, negative) + s_i (eps_i(V_i x, positive) - eps_i(V_i x, negative)) )
    eps   = sum_i w_i eps_i / sum_i w_i

    b        samples in a batch; all per-sample settings are arrays with this leading axis
    h w c    latent height, width and channels (32 128 4 for 256 x 1024 pixels)
    k t      step 0, 1, ... of the sampler, and the training timestep it stands for
    x        [b h w c] the noisy latent, x = alpha_t x0 + sigma_t eps, with alpha_t^2 + sigma_t^2 = 1
    eps x0   [b h w c] the noise and the clean latent estimated from x
    s_i w_i  [b] guidance scale and weight of model i at a step
    V_i      the view through which model i sees x
    steps    length of every table: the number of training steps, so that the step count does not change any shape

`guided_noise` is the first equation, `fused_noise` the second, `denoise` the loop. Nearby: the solvers' coefficients
(`solvers.py`), weights and modes per step (`term_schedule.py`), views (`views.py`) and windows (`windows.py`).

A model is any callable pytree `model(x, t, text) -> eps`. It is an argument of `denoise`, so its weights are never
compiled in as constants. Schedule, guidance and averages are float32. Shard `terms` and `state` over the batch and
replicate all else: the compiled program then needs no communication between devices.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from its_jax.diffusion import feature_cache
from its_jax.diffusion.feature_cache import Mode
from its_jax.diffusion.solvers import SolverTable
from its_jax.diffusion.views import VIEWS, View
from its_jax.diffusion.windows import Windows

GUIDED = Mode()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Term:
    """The contribution of one model: its prompts, guidance, weights and view. The model itself is passed separately."""

    texts: Any  # pytree of [b 2 ...]: embedded negative and positive prompt; or [b 1 ...], the positive one only
    guidance_scale: Array  # [b] or [b steps]; ignored where only the positive prompt is evaluated
    weights: Array  # [b steps], see `term_schedule.term_weights`
    view: View = dataclasses.field(default=VIEWS["identity"], metadata={"static": True})
    windows: Windows | None = dataclasses.field(default=None, metadata={"static": True})  # None: the whole latent
    modes: tuple[Mode, ...] = dataclasses.field(default=(GUIDED,), metadata={"static": True})

    @property
    def uses_cache(self) -> bool:
        """Returns whether any mode reads cached features, so that the other modes must write them."""
        return any(mode.cached for mode in self.modes)


def guided_noise(
    model: Callable, x: Array, t: Array, term: Term, mode: Mode = GUIDED, k: Array | int = 0, cache: Any = ()
) -> tuple[Array, Any]:
    """Predicts the guided noise of one model at timestep `t` `[]` of step `k`; returns it with the updated cache."""
    predict = functools.partial(_guided_noise, model, t, term, mode, k)
    return term.windows.average(predict, x, cache) if term.windows else predict(x, cache)


def _guided_noise(model, t, term, mode, k, x, cache):
    eps, cache = feature_cache.evaluate(model, term.view.apply(x), t, term, mode, cache)  # [b prompts h w c]
    if eps.shape[1] == 1:  # the positive prompt only
        return term.view.invert(eps[:, 0]), cache
    negative, positive = eps[:, 0], eps[:, 1]
    s = term.guidance_scale if term.guidance_scale.ndim == 1 else term.guidance_scale[:, k]
    return term.view.invert(negative + _per_sample(s) * (positive - negative)), cache


def fused_noise(
    models: Sequence[Callable],
    x: Array,
    t: Array,
    terms: Sequence[Term],
    k: Array,
    selected: Array,
    caches: Sequence[Any] | None = None,
) -> tuple[Array, tuple[Any, ...]]:
    """Averages the guided noise of all models at step `k`; model i is not evaluated if `selected[i]` is 0."""
    total, updated = jnp.zeros_like(x), []
    weights = [term.weights[:, k] for term in terms]
    for model, term, w, mode, cache in zip(models, terms, weights, selected, caches or [()] * len(terms), strict=True):
        additions = [functools.partial(_add_noise, model, x, t, term, m, k, w) for m in term.modes]
        total, cache = lax.switch(mode.astype(jnp.int32), [lambda *unchanged: unchanged, *additions], total, cache)
        updated.append(cache)
    return total / _per_sample(sum(weights)), tuple(updated)


def _add_noise(model, x, t, term, mode, k, w, total, cache):
    w = _per_sample(w)
    eps, cache = guided_noise(model, x, t, term, mode, k, cache)
    # Adding zero times a non-finite noise would still spoil the sample.
    return jnp.where(w > 0, total + w * eps, total), cache


def _per_sample(a):
    return a[:, None, None, None]


class State(NamedTuple):
    """Everything that carries over from one step to the next."""

    x: Array  # [b h w c] float32
    x0: Array  # [b h w c] float32, estimate of the last step
    failed_at: Array  # [b] int32, first step with a non-finite result, -1 if none
    caches: tuple[Any, ...] | None = None  # one per term, see `feature_cache.empty_caches`


class Known(NamedTuple):
    """The known region of the result, for inpainting: there the noise in x is not predicted but given."""

    mask: Array  # [b h w 1] bool
    z: Array  # [b h w c] the clean latent
    eps: Array  # [b h w c] the noise that x is made with


def initial_noise(seeds: Array, shape: tuple[int, int, int]) -> Array:
    """Draws standard normal float32 `[b *shape]` from uint32 seeds `[b]`; a sample depends only on its own seed."""
    return jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed, impl="threefry2x32"), shape))(seeds)


def initial_state(noise: Array, z: Array | None = None, row: SolverTable | None = None) -> State:
    """Returns the state before step 0; or, given clean latents `z` `[b h w c]`, the state before the step of `row`."""
    # The order of the two products decides how the sum is rounded where they are fused.
    x = noise if z is None or row is None else row.sigma * noise + row.alpha * z
    return State(x, jnp.zeros_like(noise), jnp.full(noise.shape[0], -1, jnp.int32))


@functools.partial(jax.jit, static_argnames="fuse")
def denoise(
    models: Sequence[Callable],
    terms: Sequence[Term],
    table: SolverTable,
    selected: Array,
    state: State,
    first: Array,
    last: Array,
    known: Known | None = None,
    fuse: Callable = fused_noise,
) -> State:
    """Runs steps first, ..., last - 1. The result is `.x` once `last` has reached the number of steps.

    Compiled once per set of shapes, dtypes, models, views and windows: prompts, seeds, guidance, weights, step count
    and solver are data. Splitting a run into several calls, to show progress, does not change the result.

    Args:
      models: one per term, see above; t is the same for the whole batch.
      table: see `solvers.solver_table`.
      selected: int `[terms steps]` from `term_schedule.select_modes`.
      first, last: `[]` int32.
      fuse: replaces `fused_noise`; `models` and `terms` are then whatever it takes.
    """

    def step(k, state):
        x, x0_prev, failed_at, caches = state
        row = jax.tree.map(lambda column: column[k], table)
        eps, caches = fuse(models, x, row.t, terms, k, selected[:, k], caches)
        eps = eps if known is None else jnp.where(known.mask, known.eps, eps)
        x0 = (x - row.sigma * eps) / row.alpha
        x = row.cx * x + row.ce * eps + row.cp * x0_prev
        fails = ~jnp.isfinite(x).all(axis=(1, 2, 3))
        failed_at = jnp.where(fails & (failed_at < 0), k, failed_at)
        return State(x, x0, failed_at, None if state.caches is None else caches)

    return lax.fori_loop(first, last, step, state)


def insert_known(x: Array, known: Known) -> Array:
    """Puts the known latent into the result, because some solvers leave a little noise at the last step."""
    return jnp.where(known.mask, known.z, x)
