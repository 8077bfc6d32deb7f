"""The method with small fake models: solvers against diffusers, the authors' loop, sharding, compilation."""

import dataclasses
import json
import pathlib
import re

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from its_jax.diffusion import denoise
from its_jax.diffusion.feature_cache import Mode, empty_caches
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import SOLVERS, solver_table
from its_jax.diffusion.term_schedule import select_modes, term_weights
from its_jax.diffusion.views import VIEWS
from its_jax.diffusion.windows import Windows
from its_jax.errors import UserError
from its_jax.settings import schema
from tests.helpers.collectives import COLLECTIVES

SD15 = json.loads((pathlib.Path(__file__).parents[1] / "data/configs/sd15.scheduler.json").read_text())
SCHEDULE = NoiseSchedule.from_dict(SD15)
SHAPE = (4, 6, 4)  # h w c
TOKENS = (3, 5)  # n d


def fake_eps(weights, x, t, text):
    """A model whose noise depends on every element of a latent, on the timestep and on the text."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    told = (text.mean(axis=1) @ weights["text"])[:, None, None, :]
    return jnp.tanh(x @ weights["x"] + 0.2 * mean + told + jnp.sin(t / 200.0)[:, None, None, None])


def torch_eps(weights, x, t, text):
    weights = {name: torch.from_numpy(w) for name, w in weights.items()}
    mean = x.mean(dim=(1, 2), keepdim=True)
    told = (text.mean(dim=1) @ weights["text"])[:, None, None, :]
    return torch.tanh(x @ weights["x"] + 0.2 * mean + told + torch.sin(t / 200.0)[:, None, None, None])


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
    """(terms, rows, active, state, last) for `denoise`; settings are one per term or `[terms][b]`."""
    weights, starts, guidance = (
        np.broadcast_to(np.asarray(setting, np.float32).T, (b, 2)).T for setting in (weights, starts, guidance)
    )
    table, active = term_weights(weights, starts, num_steps, schedule)
    terms = [denoise.Term(fake_texts(10 * seed + i, b), guidance[i], table[i]) for i in range(2)]
    noise = denoise.initial_noise(np.arange(seed, seed + b, dtype=np.uint32), SHAPE)
    return (
        terms,
        solver_table(schedule, num_steps, solver),
        active,
        denoise.initial_state(noise),
        np.int32(num_steps),
    )


def sample(terms, rows, active, state, last, models=MODELS):
    return denoise.denoise(models, terms, rows, active, state, np.int32(0), last)


def relative_error(ours, reference):
    return np.abs(ours - reference).max() / np.abs(reference).max()


def authors_loop(scheduler, terms, noise, starts=(0, 0), w=0.5):
    """The published sampling loop in PyTorch: warm start, then (1 - w) image + w audio."""
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


@pytest.mark.parametrize("w", [0.5, 0.3])
def test_authors_loop_with_ddim(highest_precision, w):
    terms, rows, active, state, last = make_run(num_steps=100, starts=(10, 0), weights=(1 - w, w))
    scheduler = diffusers.DDIMScheduler.from_config(SD15)
    scheduler.set_timesteps(100)
    np.testing.assert_array_equal(rows.t[:100], scheduler.timesteps)
    reference = authors_loop(scheduler, terms, state.x, starts=(10, 0), w=w)
    assert relative_error(sample(terms, rows, active, state, last).x, reference) < 1e-4


def schedulers():
    cosine = {"beta_schedule": "squaredcos_cap_v2"}
    linear = {"beta_schedule": "linear", "set_alpha_to_one": True}
    trailing = {"timestep_spacing": "trailing"}
    ours = {"ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler}
    ours["dpmpp_2m"] = diffusers.DPMSolverMultistepScheduler
    for solver, scheduler in ours.items():
        for num_steps, change in [(100, {}), (20, linear), (25, trailing), (20, cosine), (2, {}), (1, {})]:
            yield pytest.param(
                solver,
                scheduler,
                num_steps,
                change,
                id=f"{solver}-{num_steps}-{'-'.join(map(str, change.values()))}",
            )


@pytest.mark.parametrize("solver, scheduler_class, num_steps, change", list(schedulers()))
def test_solvers_follow_diffusers(highest_precision, solver, scheduler_class, num_steps, change):
    # The file names no spacing: loaded as PNDMScheduler it means "leading", in Euler's class it would not.
    config = SD15 | {"timestep_spacing": "leading"} | change
    schedule = NoiseSchedule.from_dict(config)
    run = make_run(num_steps=num_steps, solver=solver, starts=(0, 0), schedule=schedule, guidance=(5, 3))
    terms, rows, _, state, _ = run
    scheduler = scheduler_class.from_config(config)
    if solver == "dpmpp_2m" and schedule.timestep_spacing == "leading":
        # Its own leading timesteps begin lower, at 901 for 100 steps: as if one step more were taken.
        scheduler.set_timesteps(timesteps=rows.t[:num_steps].tolist())
    else:
        scheduler.set_timesteps(num_steps)
    np.testing.assert_array_equal(rows.t[:num_steps], scheduler.timesteps)
    noise = np.array(state.x)
    if solver == "euler" and schedule.timestep_spacing == "trailing":
        # There diffusers starts from sigma_max noise, short of unit variance; we start all solvers alike.
        noise *= float((scheduler.sigmas[0] ** 2 + 1) ** 0.5 / scheduler.init_noise_sigma)
    assert relative_error(sample(*run).x, authors_loop(scheduler, terms, noise)) < 1e-4


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_carry_a_known_latent_and_noise_along(solver):
    """Given the true noise, any solver is exact: alpha x0 + sigma eps stays on its path."""
    rows = jax.tree.map(np.float64, solver_table(SCHEDULE, 30, solver))
    x0, eps = 0.7, -1.3
    for k in range(29):
        x = rows.alpha[k] * x0 + rows.sigma[k] * eps
        after = rows.cx[k] * x + rows.ce[k] * eps + rows.cp[k] * x0
        assert after == pytest.approx(rows.alpha[k + 1] * x0 + rows.sigma[k + 1] * eps, abs=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_every_step_count_has_valid_falling_timesteps(spacing):
    schedule = NoiseSchedule.from_dict(SD15 | {"timestep_spacing": spacing})
    for num_steps in range(1, 1001):
        t = schedule.timesteps(num_steps)
        assert len(t) == num_steps and t[0] <= 999 and t[-1] >= 0 and np.all(np.diff(t) < 0)


def test_second_order_converges_faster():
    schedule = NoiseSchedule.from_dict(SD15 | {"timestep_spacing": "trailing"})  # always begins at timestep 999

    def run(solver, num_steps):
        return sample(*make_run(num_steps=num_steps, solver=solver, starts=0, guidance=2, schedule=schedule)).x

    exact = run("euler", 1000)
    assert relative_error(run("dpmpp_2m", 25), exact) < relative_error(run("euler", 25), exact) / 3


def test_guidance_weights_and_start_steps_are_per_sample():
    """A batch of different settings holds what each setting gives alone."""
    settings = {
        "starts": [[2, 0, 5], [0, 3, 0]],
        "weights": [[0.5, 2, 1], [0.5, 1, 0]],
        "guidance": [[1, 2, 3]] * 2,
    }
    settings["weights"][1][2], settings["starts"][0][2] = 0, 0  # the last sample has an image term only
    together = make_run(b=3, **settings)
    x = sample(*together).x
    for i in range(3):
        one = {name: np.asarray(v)[:, i : i + 1] for name, v in settings.items()}
        _, rows, active, _, last = make_run(b=1, **one)
        terms, state = jax.tree.map(lambda a, i=i: a[i : i + 1], (together[0], together[3]))
        np.testing.assert_allclose(sample(terms, rows, active, state, last).x[0], x[i], atol=2e-5)


def test_a_term_takes_part_until_its_stop_step():
    weights, starts = [[0.5] * 2, [0.5] * 2], [[2, 0], [0, 0]]
    table, active = term_weights(weights, starts, 10, SCHEDULE, stop_steps=[[10, 4], [99, 10]])
    np.testing.assert_array_equal(np.flatnonzero(table[0, 0]), np.arange(2, 10))
    np.testing.assert_array_equal(np.flatnonzero(table[0, 1]), np.arange(4))
    np.testing.assert_array_equal(np.flatnonzero(table[1, 0]), np.arange(10))
    assert active[0, 1] and active[0, 9] and active[1, :10].all() and not active[:, 10:].any()
    with pytest.raises(UserError, match="zero at step 6 of 10 for sample 1"):
        term_weights(weights, starts, 10, SCHEDULE, stop_steps=[[10, 4], [10, 6]])
    term_weights(weights, [[4, 4]] * 2, 10, SCHEDULE, first=4)  # nobody needs the steps before the first


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_known_comes_out_and_the_rest_goes_its_way(solver):
    terms, _, active, state, last = make_run(solver=solver)
    z = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    mask = np.arange(SHAPE[1])[None, :, None] < np.full((SHAPE[0], 1, 1), 3)
    first = np.int32(5)
    rows = solver_table(SCHEDULE, 20, solver, 5)
    row = jax.tree.map(lambda column: column[first], rows)
    known = denoise.Known(mask, z, state.x)
    begun = denoise.initial_state(state.x, z, row)
    np.testing.assert_allclose(begun.x, row.alpha * z + row.sigma * state.x, atol=1e-6)
    x = denoise.denoise(MODELS, terms, rows, active, begun, first, last, known).x
    end = denoise.denoise(MODELS, terms, rows, active, begun, first, last, None).x
    sigma = 0.03 if solver == "ddim" else 0  # DDIM of SD 1.5 ends at timestep 0
    assert np.abs(x[:, :, :3] - z[:, :3]).max() < 5 * sigma + 1e-4
    assert np.abs(x[:, :, 3:] - z[:, 3:]).max() > 0.1 and np.abs(x - end).max() > 0.1
    np.testing.assert_array_equal(denoise.insert_known(x, known)[:, :, :3], np.broadcast_to(z[:, :3], (2, 4, 3, 4)))
    np.testing.assert_array_equal(denoise.insert_known(x, known)[:, :, 3:], x[:, :, 3:])
    nothing = denoise.Known(np.zeros_like(mask), z, state.x)
    np.testing.assert_allclose(
        denoise.denoise(MODELS, terms, rows, active, begun, first, last, nothing).x, end, atol=1e-5
    )


def test_a_long_latent_is_seen_through_windows():
    """Each model sees one window at a time, through the term's view."""
    widths = []

    def narrow(weights, x, t, text):
        widths.append(x.shape[1:3])
        return x * 0.5

    (term, _), *_ = make_run()
    term = dataclasses.replace(term, view=VIEWS["rotate_90"], windows=Windows.cover(30, 6, wrap=False))
    x = denoise.initial_noise(np.arange(2, dtype=np.uint32), (4, 30, 4))
    noise, _ = denoise.guided_noise(Partial(narrow, {}), x, jnp.int32(1), term)
    np.testing.assert_allclose(noise, x * 0.5, atol=1e-6)
    assert set(widths) == {(6, 4)}


def test_view_shows_the_model_a_rearranged_latent():
    view = VIEWS["block_rearrange"]
    x = denoise.initial_noise(np.arange(2, dtype=np.uint32), (32, 128, 4))
    assert view.apply(x).shape == (2, 64, 64, 4)
    np.testing.assert_array_equal(view.apply(x)[:, :32], x[:, :, :64])  # upper half = left half
    np.testing.assert_array_equal(view.invert(view.apply(x)), x)

    def uneven(weights, x, t, text):
        """A model that tells rows of its picture apart."""
        return x * jnp.arange(x.shape[1])[:, None, None]

    (term, _), *_ = make_run()
    term = denoise.Term(term.texts, term.guidance_scale, term.weights, view)
    x = jnp.ones((2, *SHAPE))
    noise, _ = denoise.guided_noise(Partial(uneven, {}), x, jnp.int32(1), term)
    np.testing.assert_array_equal(noise[0, :, :, 0], np.arange(4)[:, None] + 4 * (np.arange(6) >= 3))


def evaluations(**settings):
    """How often a run evaluates the image and the audio model, and with how many latents at once."""
    count, latents = {"image": 0, "audio": 0}, {}

    def counted(name, weights, x, t, text):
        latents[name] = len(x)
        jax.debug.callback(lambda: count.update({name: count[name] + 1}))
        return fake_eps(weights, x, t, text)

    models = [
        Partial(counted_as, w)
        for counted_as, w in zip(
            (lambda *a: counted("image", *a), lambda *a: counted("audio", *a)), WEIGHTS, strict=True
        )
    ]
    terms, *run = make_run(**settings)
    # As the sampler has it: at guidance scale 1 there is no negative prompt.
    terms = [
        dataclasses.replace(term, texts=term.texts[:, 1:]) if (term.guidance_scale == 1).all() else term
        for term in terms
    ]
    sample(terms, *run, models=models)
    jax.effects_barrier()
    return count, latents


def test_models_at_rest_are_not_evaluated():
    assert evaluations(num_steps=100, starts=(10, 0))[0] == {"image": 90, "audio": 100}


def test_a_model_without_weight_is_not_evaluated():
    assert evaluations(weights=(0, 1))[0] == {"image": 0, "audio": 20}
    # One sample that needs it is enough.
    assert evaluations(weights=[[0, 0.5], [1, 1]], starts=(0, 0))[0] == {"image": 20, "audio": 20}


def test_guidance_scale_1_skips_the_negative_half():
    assert evaluations(guidance=(1, 3), num_steps=2, starts=(0, 0))[1] == {"image": 2, "audio": 4}


def test_one_compilation_serves_all_settings():
    denoise.denoise.clear_cache()
    runs = [
        make_run(),
        make_run(seed=5),
        make_run(guidance=(3, 7.5), weights=(0, 1)),
        make_run(starts=[[0, 7], [3, 0]]),
        make_run(num_steps=7),
        make_run(solver="euler"),
        make_run(solver="dpmpp_2m", num_steps=12),
    ]
    results = [np.array(sample(*run).x) for run in runs]
    assert denoise.denoise._cache_size() == 1
    assert len({result.tobytes() for result in results}) == len(runs)


def test_a_term_without_negative_prompt_follows_the_positive_one():
    """Guidance scale 1, at half the cost."""
    terms, *run = make_run(guidance=(1, 3))
    expected = sample(terms, *run).x
    terms[0] = dataclasses.replace(terms[0], texts=terms[0].texts[:, 1:], guidance_scale=np.full(2, np.nan))
    np.testing.assert_allclose(sample(terms, *run).x, expected, rtol=0, atol=1e-5)


class Layered:
    """A model of an inner and an outer part; `asked` counts evaluations of the inner one by the size of its batch."""

    def __init__(self, weights):
        self.weights, self.asked = weights, []

    def __call__(self, x, t, text):
        return self.with_features(x, t, text)[0]

    def with_features(self, x, t, text):
        jax.debug.callback(lambda: self.asked.append(len(x)))
        inner = fake_eps(self.weights, x, t, text)
        return self.from_features(x, t, text, inner), inner

    def from_features(self, x, t, text, inner):
        return inner + 0.1 * x


def run_layered(ways, chosen, **kw):
    """The latent, and what the inner part of each model was asked."""
    terms, rows, active, state, last = make_run(num_steps=10, **kw)
    terms = [dataclasses.replace(term, modes=ways) for term in terms]
    models = [Layered(w) for w in WEIGHTS]
    run = jax.jit(lambda *args: denoise.denoise.__wrapped__(models, *args))
    state = state._replace(caches=empty_caches(models, terms, state.x))
    x = run(terms, rows, chosen(active), state, 0, last).x
    jax.effects_barrier()
    return np.array(x), [model.asked for model in models]


def test_inner_layers_serve_several_steps():
    whole, reused = Mode(), Mode(cached=True)

    def every(n):
        return lambda active: np.stack([select_modes(a, a, n, (whole, reused)) for a in active])

    expected, asked = run_layered((whole,), every(1))
    assert [len(of_model) for of_model in asked] == [8, 10]
    x, asked = run_layered((whole, reused), every(1))
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-4)
    x, asked = run_layered((whole, reused), every(3))
    assert [len(of_model) for of_model in asked] == [3, 4]  # of steps 2, 5, 8; and of 0, 3, 6, 9
    assert 1e-3 < relative_error(x, expected) < 1


def test_without_guidance_the_positive_prompt_is_asked_alone():
    guided, alone = Mode(), Mode(guided=False)
    interval = np.isin(np.arange(1000), range(4, 7))

    def chosen(active):
        return np.stack([select_modes(a, interval, 1, (guided, alone)) for a in active])

    x, asked = run_layered((guided, alone), chosen, guidance=(1, 1))
    np.testing.assert_allclose(x, run_layered((guided,), lambda active: active, guidance=(1, 1))[0], atol=1e-5)
    assert asked[1] == [2] * 4 + [4] * 3 + [2] * 3


def test_reuse_waits_for_the_negative_prompt():
    ways = tuple(Mode(guided, reused) for guided in (True, False) for reused in (False, True))
    active = np.arange(12) >= 1
    guided = np.isin(np.arange(12), [4, 5, 6, 7])
    chosen = [ways[i - 1] if i else None for i in select_modes(active, guided, 3, ways)]
    inner = "".join("." if way is None else "gGaA"[2 * (not way.guided) + way.cached] for way in chosen)
    assert inner == ".aAAgGGgAAaA"


def test_a_scale_may_differ_from_step_to_step():
    terms, *run = make_run(guidance=(3, 7.5))
    expected = sample(terms, *run).x
    tables = [np.repeat(term.guidance_scale[:, None], 1000, axis=1) for term in terms]
    in_steps = [dataclasses.replace(term, guidance_scale=a) for term, a in zip(terms, tables, strict=True)]
    np.testing.assert_array_equal(sample(in_steps, *run).x, expected)
    tables[0][:, 5] = 1
    assert relative_error(sample(in_steps, *run).x, expected) > 1e-4


def test_a_run_in_pieces_has_the_bits_of_a_whole_one():
    terms, rows, active, state, last = make_run(num_steps=17, solver="dpmpp_2m")
    whole = sample(terms, rows, active, state, last)
    denoise.denoise.clear_cache()
    for first in range(0, 17, 5):
        state = denoise.denoise(MODELS, terms, rows, active, state, np.int32(first), np.int32(min(first + 5, 17)))
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    assert denoise.denoise._cache_size() == 1


def test_a_failing_sample_is_named_and_leaves_the_others_alone():
    def explodes(weights, x, t, text):
        return jnp.where((text[:, :1, :1, None] > 99) & (t[0] < 500), jnp.nan, fake_eps(weights, x, t, text))

    models = [Partial(explodes, w) for w in WEIGHTS]
    terms, rows, active, state, last = make_run(b=3, num_steps=10)
    good = sample(terms, rows, active, state, last, models=models)
    assert good.failed_at.tolist() == [-1, -1, -1] and np.isfinite(good.x).all()
    terms[0].texts[1] = 100
    bad = sample(terms, rows, active, state, last, models=models)
    assert bad.failed_at.tolist() == [-1, int(np.argmax(rows.t < 500)), -1]
    np.testing.assert_array_equal(bad.x[::2], good.x[::2])


def test_a_model_without_weight_cannot_spoil_a_sample():
    def broken(weights, x, t, text):
        return jnp.full_like(x, jnp.nan)

    run = make_run(weights=[[0, 1], [1, 1]], starts=(0, 0))
    assert sample(*run, models=[Partial(broken, {}), MODELS[1]]).failed_at.tolist() == [-1, 0]


def test_running_past_the_last_row_shows():
    terms, rows, active, state, last = make_run(num_steps=5)
    assert all(np.isnan(column[5:]).all() for column in rows[1:])
    assert sample(terms, rows, active, state, last + 1).failed_at.tolist() == [5, 5]


def mesh_of(n):
    return jax.make_mesh((n,), ("data",), devices=jax.devices()[:n], axis_types=(AxisType.Auto,))


def place(run, n):
    """The run on `n` devices: batch sharded, the rest replicated."""
    mesh = mesh_of(n)
    data, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    terms, rows, active, state, last = run
    terms, state = jax.device_put((terms, state), data)
    models, rows, active, first, last = jax.device_put((MODELS, rows, active, np.int32(0), last), everywhere)
    return models, terms, rows, active, state, first, last


def test_eight_devices_work_alone_and_agree_with_one():
    run = make_run(b=16, num_steps=25, starts=[np.arange(16) % 3, [0] * 16])
    one, eight = place(run, 1), place(run, 8)
    text = denoise.denoise.lower(*eight).compile().as_text()
    assert "num_partitions=8" in text
    assert not re.search(COLLECTIVES, text)
    with jax.transfer_guard("disallow"):
        result = denoise.denoise(*eight)
    assert result.x.sharding.is_equivalent_to(eight[4].x.sharding, 4)
    np.testing.assert_allclose(result.x, denoise.denoise(*one).x, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result.failed_at, -1)


def test_pieces_on_eight_devices_compile_once():
    models, terms, rows, active, state, _, _ = place(make_run(b=8), 8)
    denoise.denoise.clear_cache()
    for first in (0, 5, 10):
        state = denoise.denoise(models, terms, rows, active, state, np.int32(first), np.int32(first + 5))
    assert denoise.denoise._cache_size() == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sharded_jit_has_the_bits_of_pmap():
    run = make_run(b=16, num_steps=12, solver="dpmpp_2m")
    models, terms, rows, active, state, first, last = place(run, 8)
    sharded = denoise.denoise(models, terms, rows, active, state, first, last)

    def per_device(tree):
        return jax.tree.map(lambda a: np.array(a).reshape(8, 2, *a.shape[1:]), tree)

    each = jax.pmap(denoise.denoise.__wrapped__, in_axes=(None, 0, None, None, 0, None, None))
    mapped = each(MODELS, per_device(terms), run[1], run[2], per_device(state), np.int32(0), run[4])
    jax.tree.map(np.testing.assert_array_equal, mapped, per_device(sharded))


def test_noise_depends_on_the_seed_alone():
    seeds = np.array([7, 0, 3, 2**32 - 1, 11, 5, 6, 4], np.uint32)
    shape = (16, 32, 4)
    make = jax.jit(denoise.initial_noise, static_argnums=1)
    noise = make(seeds, shape)
    sharded = make(jax.device_put(seeds, NamedSharding(mesh_of(8), PartitionSpec("data"))), shape)
    np.testing.assert_array_equal(sharded, noise)
    for i, seed in enumerate(seeds):
        np.testing.assert_array_equal(make(np.array([seed]), shape)[0], noise[i])
    assert noise.dtype == jnp.float32 and abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    assert np.abs(np.corrcoef(noise.reshape(8, -1)) - np.eye(8)).max() < 0.1


@pytest.mark.parametrize("num_steps", [0, -3, 1001])
def test_impossible_step_counts(num_steps):
    with pytest.raises(UserError, match=rf"num_steps={num_steps}: must be 1 to 1000"):
        solver_table(SCHEDULE, num_steps, "ddim")


def test_unknown_solver_lists_the_known():
    with pytest.raises(UserError, match="solver='plms' is not known here; choose one of ddim, euler, dpmpp_2m"):
        solver_table(SCHEDULE, 10, "plms")


@pytest.mark.parametrize(
    "weights, starts, message",
    [
        ([[1, 1], [1, -0.5]], [[0, 0], [0, 0]], "weights must be finite and not negative"),
        ([[1, 1], [1, np.nan]], [[0, 0], [0, 0]], "weights must be finite and not negative"),
        ([[1, 1], [1, 1]], [[0, -1], [0, 0]], "start steps must not be negative"),
        ([[1, 1], [1, 1]], [[0, 20], [0, 30]], "zero at step 0 of 20 for sample 1"),
        ([[1, 1], [1, 0]], [[0, 4], [0, 0]], "zero at step 0 of 20 for sample 1"),
        ([[0, 1], [0, 1]], [[0, 0], [0, 0]], "zero at step 0 of 20 for sample 0"),
    ],
)
def test_weights_that_leave_a_step_to_nobody(weights, starts, message):
    with pytest.raises(UserError, match=message):
        term_weights(weights, starts, 20, SCHEDULE)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid'"),
        ({"timestep_spacing": "linspace"}, "timestep_spacing='linspace'"),
        ({"prediction_type": "v_prediction"}, "prediction_type='v_prediction'"),
        ({"clip_sample": True}, "clip_sample=True"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"warp": 9}, "warp"),
    ],
)
def test_settings_that_are_not_understood_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        NoiseSchedule.from_dict(SD15 | change)


def test_a_schedule_without_its_betas_is_refused():
    with pytest.raises(UserError, match="beta_end"):
        NoiseSchedule.from_dict({name: value for name, value in SD15.items() if name != "beta_end"})


@pytest.mark.parametrize("name", ["PNDM", "DDIM", "EulerDiscrete", "DPMSolverMultistep"])
def test_files_of_other_schedulers_are_read(name):
    """What diffusers writes after `from_config` holds every field of the class."""
    scheduler = getattr(diffusers, f"{name}Scheduler").from_config(SD15 | {"timestep_spacing": "leading"})
    schedule = NoiseSchedule.from_dict(json.loads(scheduler.to_json_string()))
    np.testing.assert_allclose(schedule.alphas_cumprod(), scheduler.alphas_cumprod, rtol=1e-5)
    assert schedule.steps_offset == 1 and schedule.timestep_spacing == "leading"


def test_jobs_know_every_solver():
    assert schema.SOLVERS == tuple(SOLVERS)
