"""Images that Sound in one file: several diffusion models denoise one latent together.

Each step follows the weighted average of the models' guided noise predictions (Chen, Geng, Owens; NeurIPS
2024, arXiv 2405.12221). A model is any callable pytree `model(x, t, text) -> eps`: a module, or
`jax.tree_util.Partial(function, weights)`. It is passed as an argument, so its weights are never baked in.

    b        samples in the batch; all per-sample settings are arrays that begin with it
    h w c    latent height, width and channels (32 128 4 for 256 x 1024 pixels)
    n d      tokens of a text and their features (77 768)
    k t      step 0, 1, ... of the sampler, and the training timestep it stands for
    x        [b h w c] the noisy latent, x = alpha_t x0 + sigma_t eps, with alpha_t^2 + sigma_t^2 = 1
    eps x0   [b h w c] the noise and the clean latent that are estimated from x
    s        [b] classifier-free guidance scale
    w_i V_i  [b] weight of model i at a step, and the view through which it sees x
    steps    rows of every table: the schedule's training steps, so that no step count changes a shape

Schedule, guidance and averages are float32; a model casts what it is given to the dtype that it computes in.
Place `terms`, `state` and seeds sharded over the batch, and models, `rows` and `chosen` replicated: the
compiled program then needs no communication between devices.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from its_jax.errors import UserError
from its_jax.fields import check_choice, read_fields
from its_jax.views import VIEWS, View
from its_jax.windows import Windows

# Fields of diffusers' schedulers that would change the schedule, and the values under which they do not.
_OFF = """
    clip_sample thresholding rescale_betas_zero_snr use_karras_sigmas use_exponential_sigmas use_beta_sigmas
    use_lu_lambdas use_flow_sigmas use_dynamic_shifting
"""
_FIXED = {"prediction_type": ("epsilon",), "trained_betas": (None,), "variance_type": (None, "fixed_small")}
_FIXED |= {name: (False, None) for name in _OFF.split()}
# Fields that are idle under these values, or say how that scheduler steps: here the caller picks the solver.
_IGNORED = """
    clip_sample_range dynamic_thresholding_ratio sample_max_value skip_prk_steps interpolation_type
    timestep_type sigma_min sigma_max final_sigmas_type flow_shift solver_order solver_type algorithm_type
    lower_order_final euler_at_final lambda_min_clipped time_shift_type
"""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The noise that a model was trained under, in the terms of its `scheduler_config.json`.

    `set_alpha_to_one` says whether DDIM ends at the clean latent or at timestep 0. Fields without a default
    must be in the file; the defaults are those of diffusers' DDIMScheduler.
    """

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    timestep_spacing: str = "leading"

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Schedule":
        """Reads a parsed diffusers scheduler file; UserError names what is missing or not supported."""
        return read_fields(cls, raw, fixed=_FIXED, ignored=_IGNORED.split())

    def __post_init__(self):
        check_choice("beta_schedule", self.beta_schedule, ("linear", "scaled_linear", "squaredcos_cap_v2"))
        check_choice("timestep_spacing", self.timestep_spacing, ("leading", "trailing"))
        if self.num_train_timesteps < 1 or not 0 < self.beta_start <= self.beta_end < 1:
            raise UserError(
                f"the noise schedule needs num_train_timesteps above 0 and 0 < beta_start <= beta_end < 1, not "
                f"{self.num_train_timesteps}, {self.beta_start} and {self.beta_end}"
            )

    def alphas_cumprod(self) -> np.ndarray:
        """alpha_t^2 for t = 0, 1, ... as float64 `[num_train_timesteps]`."""
        n = self.num_train_timesteps
        if self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, n)
        elif self.beta_schedule == "scaled_linear":  # latent diffusion, arXiv 2112.10752
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, n) ** 2
        else:  # cosine schedule with its offset 0.008 and cap 0.999, arXiv 2102.09672 section 3.2
            signal = np.cos((np.linspace(0, 1, n + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
        return np.cumprod(1 - betas)

    def timesteps(self, num_steps: int) -> np.ndarray:
        """The timesteps of the steps, falling, int64 `[num_steps]` (arXiv 2305.08891, table 2).

        100 steps of SD 1.5 ("leading") begin at 991, "trailing" ones at the last timestep. A `steps_offset`
        that leads beyond the last timestep (1000 steps of 1000) is cut.
        """
        n = self.num_train_timesteps
        if not 1 <= num_steps <= n:
            raise UserError(f"num_steps={num_steps}: must be 1 to {n}, the number of training steps")
        k = np.arange(num_steps)
        if self.timestep_spacing == "trailing":
            return np.round(n - k * (n / num_steps)).astype(np.int64) - 1
        t = k[::-1] * (n // num_steps)
        return t + min(self.steps_offset, n - 1 - t[0])


class SolverRows(NamedTuple):
    """A solver as a table. A step: x0 = (x - sigma eps) / alpha and x' = cx x + ce eps + cp x0_prev."""

    t: np.ndarray  # int32 [steps], the others float32 [steps]
    alpha: np.ndarray
    sigma: np.ndarray
    cx: np.ndarray
    ce: np.ndarray
    cp: np.ndarray


def _first_order(alpha, sigma):
    """x' = alpha' x0 + sigma' eps."""
    cx = alpha[1:] / alpha[:-1]
    return cx, sigma[1:] - cx * sigma[:-1], np.zeros_like(cx)


def _dpmpp_2m(alpha, sigma):
    """DPM-Solver++(2M), arXiv 2211.01095, algorithm 2; the first and the last step are of first order."""
    with np.errstate(divide="ignore"):
        step = np.diff(np.log(alpha / sigma))  # h of the paper; infinite where the last sigma is 0
    ratio = np.zeros_like(step)  # 1 / (2 r) of the paper
    ratio[1:-1] = step[1:-1] / step[:-2] / 2
    gain = alpha[1:] - sigma[1:] * alpha[:-1] / sigma[:-1]  # alpha' (1 - exp(-h))
    c0 = gain * (1 + ratio)
    return sigma[1:] / sigma[:-1] + c0 / alpha[:-1], -c0 * sigma[:-1] / alpha[:-1], -gain * ratio


# Euler's method on the ODE of x / alpha, written for x, is DDIM's formula (arXiv 2010.02502, section 4.3);
# they differ in where they end. All start from x = noise: diffusers' init_noise_sigma is that of x / alpha.
SOLVERS = {"ddim": _first_order, "euler": _first_order, "dpmpp_2m": _dpmpp_2m}


def solver_rows(schedule: Schedule, num_steps: int, solver: str, first: int = 0) -> SolverRows:
    """The table of `solver` ("ddim", "euler" or "dpmpp_2m") on the schedule's timesteps, from float64.

    Rows before `first`, where denoising begins, and beyond `num_steps` hold NaN, so that a step too many cannot
    pass for a result. Euler and DPM-Solver++ end at sigma 0, DDIM where `set_alpha_to_one` says.

    Raises:
      UserError: unknown solver, or a step count below 1 or above the training steps.
    """
    check_choice("solver", solver, SOLVERS)
    t, signal = schedule.timesteps(num_steps), schedule.alphas_cumprod()
    end = signal[0] if solver == "ddim" and not schedule.set_alpha_to_one else 1.0
    signal = np.append(signal[t[first:]], end)
    alpha, sigma = np.sqrt(signal), np.sqrt(1 - signal)
    columns = np.stack([alpha[:-1], sigma[:-1], *SOLVERS[solver](alpha, sigma)])
    unused = schedule.num_train_timesteps - num_steps
    columns = np.pad(columns, ((0, 0), (first, unused)), constant_values=np.nan).astype(np.float32)
    return SolverRows(np.pad(t, (0, unused)).astype(np.int32), *columns)


class Way(NamedTuple):
    """How a model is evaluated at a step."""

    guided: bool = True  # with the negative prompt, or the positive one alone, as if s were 1
    reused: bool = False  # the outermost layers only, on what the inner ones gave before (arXiv 2312.00858)


GUIDED = Way()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Term:
    """What one model contributes; the model itself stands at the same place in `models`."""

    texts: Any  # pytree of [b 2 ...]: what the model takes from negative and positive prompt, or [b 1 ...]
    # [b], or [b steps], s; of no effect where texts are of the positive prompt alone, whose noise is s = 1
    guidance_scale: Array
    weights: Array  # [b steps] w_i at each step, see `term_weights`
    view: View = dataclasses.field(default=VIEWS["identity"], metadata={"static": True})
    windows: Windows | None = dataclasses.field(default=None, metadata={"static": True})  # None: all of it at once
    ways: tuple[Way, ...] = dataclasses.field(default=(GUIDED,), metadata={"static": True})  # see `chosen_ways`

    @property
    def reuses(self) -> bool:
        return any(way.reused for way in self.ways)


def term_weights(
    weights, start_steps, num_steps: int, schedule: Schedule, *, stop_steps=None, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights at each step: before its start step and from its stop step on a term takes no part.

    Args:
      weights: `[terms b]` >= 0, of any scale; only their ratios matter.
      start_steps: `[terms b]` >= 0, first step (not timestep) at which a term takes part.
      stop_steps: `[terms b]`, first step at which it takes no part any more; None is the end.
      first: the step at which denoising begins.

    Returns:
      float32 `[terms b steps]` for `Term.weights`, and bool `[terms steps]`: whether any sample of the batch
      needs the term at that step; found here, since over a sharded batch it would take communication.

    Raises:
      UserError: a negative or non-finite weight, a negative start step, a sample without a term at a step.
    """
    weights, start_steps = np.asarray(weights, np.float32), np.asarray(start_steps)
    stop_steps = np.full_like(start_steps, num_steps) if stop_steps is None else np.asarray(stop_steps)
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise UserError(f"weights must be finite and not negative, not {weights.tolist()}")
    if np.any(start_steps < 0):
        raise UserError(f"start steps must not be negative, not {start_steps.tolist()}")
    k = np.arange(schedule.num_train_timesteps)
    takes_part = (k >= start_steps[..., None]) & (k < np.minimum(stop_steps, num_steps)[..., None])
    table = np.where(takes_part, weights[..., None], np.float32(0))
    idle = np.argwhere(table.sum(0)[:, first:num_steps] == 0)
    if idle.size:
        raise UserError(
            f"the sum of weights is zero at step {first + idle[0, 1]} of {num_steps} for sample {idle[0, 0]}; "
            "let a term with a weight above 0 start by then"
        )
    return table, table.any(axis=1)


def chosen_ways(active: np.ndarray, guided: np.ndarray, cache_interval: int, ways: Sequence[Way]) -> np.ndarray:
    """How a term is evaluated at each step: 0 not at all, else 1 + the place in `ways`.

    Args:
      active, guided: bool `[steps]`, whether any sample needs the term, and its negative prompt.
      cache_interval: the inner layers are evaluated at every so many of its steps; 1 is at all. Between them they
        serve from before, unless the negative prompt was not among what they were asked.
    """
    chosen = np.zeros(len(active), np.int32)
    age, knows_negative = cache_interval, False
    for k in np.flatnonzero(active):
        reused = age < cache_interval and (knows_negative or not guided[k])
        if not reused:
            age, knows_negative = 0, guided[k]
        age += 1
        chosen[k] = 1 + ways.index(Way(bool(guided[k]), bool(reused)))
    return chosen


def guided_noise(
    model: Callable, x: Array, t: Array, term: Term, way: Way = GUIDED, k: Array | int = 0, inner: Any = ()
) -> tuple[Array, Any]:
    """eps(negative) + s (eps(positive) - eps(negative)) of one model at timestep `t` `[]` of step `k`.

    Args:
      inner: of a term that reuses, what the inner layers gave before, see `no_inner`.

    Returns:
      the noise, float32 like x; and `inner` for the next step.
    """
    predict = functools.partial(_guided_noise, model, t, term, way, k)
    return term.windows.average(predict, x, inner) if term.windows else predict(x, inner)


def _guided_noise(model, t, term, way, k, x, inner):
    """The pair is innermost in the model's batch, so that a sharded batch stays where it is."""
    texts = jax.tree.leaves(term.texts)[0].shape[1]
    asked = texts if way.guided else 1

    def merged(a):
        return a[:, texts - asked :].reshape(-1, *a.shape[2:])

    seen = jnp.repeat(term.view.look(x), asked, axis=0)
    inputs = seen, jnp.full(len(seen), t), jax.tree.map(merged, term.texts)
    if way.reused:
        eps = model.reusing(*inputs, merged(inner))
    elif term.reuses:
        eps, new = model.keeping(*inputs)
        inner = inner.at[:, texts - asked :].set(new.reshape(len(x), asked, *new.shape[1:]))
    else:
        eps = model(*inputs)
    eps = eps.astype(jnp.float32).reshape(len(x), asked, *seen.shape[1:])
    if asked == 1:
        return term.view.back(eps[:, 0]), inner
    negative, positive = eps[:, 0], eps[:, 1]
    s = term.guidance_scale if term.guidance_scale.ndim == 1 else term.guidance_scale[:, k]
    return term.view.back(negative + _per_sample(s) * (positive - negative)), inner


def no_inner(models: Sequence[Callable], terms: Sequence[Term], x: Array) -> tuple[Any, ...]:
    """Room for what the inner layers of each term give, `[b (windows) texts ...]`; () for terms that do not reuse."""

    def of_term(model, term):
        if not term.reuses:
            return ()
        columns = term.windows.size if term.windows else x.shape[2]
        count = (len(term.windows.starts),) if term.windows else ()
        b, texts = jax.tree.leaves(term.texts)[0].shape[:2]
        seen = jnp.repeat(term.view.look(x[:, :, :columns]), texts, axis=0)
        text = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), term.texts)
        _, inner = jax.eval_shape(lambda *a: model.keeping(*a), seen, jnp.zeros(len(seen), jnp.int32), text)
        return jnp.zeros((b, *count, texts, *inner.shape[1:]), inner.dtype)

    return tuple(map(of_term, models, terms))


def fused_noise(
    models: Sequence[Callable],
    x: Array,
    t: Array,
    terms: Sequence[Term],
    k: Array,
    chosen: Array,
    inner: Sequence[Any] | None = None,
) -> tuple[Array, tuple[Any, ...]]:
    """sum of w_i V_i^-1(eps_i(V_i x)) / sum of w_i at step `k`; model i is evaluated as `chosen[i]` says."""
    total, kept = jnp.zeros_like(x), []
    weights = [term.weights[:, k] for term in terms]
    for model, term, w, way, of_term in zip(models, terms, weights, chosen, inner or [()] * len(terms), strict=True):
        shares = [functools.partial(_add_share, model, x, t, term, way, k, w) for way in term.ways]
        total, of_term = lax.switch(way.astype(jnp.int32), [lambda *state: state, *shares], total, of_term)
        kept.append(of_term)
    return total / _per_sample(sum(weights)), tuple(kept)


def _add_share(model, x, t, term, way, k, w, total, inner):
    w = _per_sample(w)
    eps, inner = guided_noise(model, x, t, term, way, k, inner)
    # A weight of zero times a non-finite noise would still spoil the sample.
    return jnp.where(w > 0, total + w * eps, total), inner


def _per_sample(a: Array) -> Array:
    return a[:, None, None, None]


class State(NamedTuple):
    """Between two steps: all that a run needs to go on with the same bits."""

    x: Array  # [b h w c] float32
    x0: Array  # [b h w c] float32, estimate of the last step
    failed_at: Array  # [b] int32, first step whose result was not finite, -1 if none
    inner: tuple[Any, ...] | None = None  # of each term that reuses, see `no_inner`


def initial_noise(seeds: Array, shape: tuple[int, int, int]) -> Array:
    """Standard normal float32 `[b *shape]` from uint32 seeds `[b]`; a sample depends on its own seed only."""
    return jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed, impl="threefry2x32"), shape))(seeds)


class Known(NamedTuple):
    """What is given of the result: there the noise in x is known, and the latent follows it to the end."""

    mask: Array  # [h w 1] bool
    z: Array  # [h w c] the clean latent
    eps: Array  # [b h w c] the noise that x is made with


def initial_state(noise: Array, z: Array | None = None, row: SolverRows | None = None) -> State:
    """The state before step 0, from noise `[b h w c]`; or, with a latent `z` `[h w c]` in it, before step `row`."""
    x = noise if z is None else row.alpha * z + row.sigma * noise
    return State(x, jnp.zeros_like(noise), jnp.full(noise.shape[0], -1, jnp.int32))


def settled(x: Array, known: Known) -> Array:
    """The latent at the end, where the solver may leave a rest of the noise, with what is given put in."""
    return jnp.where(known.mask, known.z, x)


@functools.partial(jax.jit, static_argnames="fuse")
def denoise(
    models: Sequence[Callable],
    terms: Sequence[Term],
    rows: SolverRows,
    chosen: Array,
    state: State,
    first: Array,
    last: Array,
    known: Known | None = None,
    fuse: Callable = fused_noise,
) -> State:
    """Runs steps first, ..., last - 1; the latent is `.x` once `last` has reached the number of steps.

    Compiled once per shape, dtype and set of models, views and windows: prompts, seeds, guidance, weights, start
    steps, step count and solver are data. A run cut into several calls, to show progress, keeps its bits.

    Args:
      models: callables `(x [2b h w c] float32, t [2b] int32, text [2b ...]) -> eps [2b h w c]`, one per term; t is
        the same for all. Where a term reuses, also `keeping`, which returns eps and what the inner layers gave,
        `[2b ...]`, and `reusing`, which takes that as a fourth argument.
      rows: table from `solver_rows`.
      chosen: `[terms steps]`, from `chosen_ways`; or `active` of `term_weights`, where terms have one way.
      first, last: `[]` int32.
      known: the part of the result that is given, if any.
      fuse: makes the noise of a step; with another one than `fused_noise`, `models` and `terms` are what it takes.
    """

    def step(k, state):
        x, x0_prev, failed_at, inner = state
        row = jax.tree.map(lambda column: column[k], rows)
        eps, inner = fuse(models, x, row.t, terms, k, chosen[:, k], inner)
        eps = eps if known is None else jnp.where(known.mask, known.eps, eps)
        x0 = (x - row.sigma * eps) / row.alpha
        x = row.cx * x + row.ce * eps + row.cp * x0_prev
        fails = ~jnp.isfinite(x).all(axis=(1, 2, 3))
        failed_at = jnp.where(fails & (failed_at < 0), k, failed_at)
        return State(x, x0, failed_at, None if state.inner is None else inner)

    return lax.fori_loop(first, last, step, state)
