"""The method with small fake models: the authors' loop, guidance, inpainting, failures, sharding, compilation."""

import dataclasses
import re

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from its_jax.diffusion import denoise
from its_jax.diffusion.solvers import SOLVERS, solver_table
from its_jax.diffusion.views import VIEWS
from its_jax.diffusion.windows import Windows
from tests.helpers.collectives import COLLECTIVES
from tests.helpers.denoising import (
    MODELS,
    SCHEDULE,
    SD15,
    SHAPE,
    WEIGHTS,
    authors_loop,
    fake_eps,
    make_run,
    relative_error,
    sample,
)


@pytest.mark.parametrize("w", [0.5, 0.3])
def test_denoising_gives_the_result_of_the_authors_loop(highest_precision, w):
    terms, table, active, state, last = make_run(num_steps=100, starts=(10, 0), weights=(1 - w, w))
    scheduler = diffusers.DDIMScheduler.from_config(SD15)
    scheduler.set_timesteps(100)
    np.testing.assert_array_equal(table.t[:100], scheduler.timesteps)
    reference = authors_loop(scheduler, terms, state.x, starts=(10, 0), w=w)
    assert relative_error(sample(terms, table, active, state, last).x, reference) < 1e-4


def test_samples_with_different_settings_share_a_batch():
    """Each sample is what its settings give alone."""
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
        _, table, active, _, last = make_run(b=1, **one)
        terms, state = jax.tree.map(lambda a, i=i: a[i : i + 1], (together[0], together[3]))
        np.testing.assert_allclose(sample(terms, table, active, state, last).x[0], x[i], atol=2e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_inpainting_keeps_the_known_region(solver):
    terms, _, active, state, last = make_run(solver=solver)
    z = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    mask = np.broadcast_to(np.arange(SHAPE[1])[None, :, None] < 3, (2, *SHAPE[:2], 1))
    first = np.int32(5)
    table = solver_table(SCHEDULE, 20, solver, 5)
    row = jax.tree.map(lambda column: column[first], table)
    known = denoise.Known(mask, z, state.x)
    start = denoise.initial_state(state.x, z, row)
    np.testing.assert_allclose(start.x, row.alpha * z + row.sigma * state.x, atol=1e-6)
    x = denoise.denoise(MODELS, terms, table, active, start, first, last, known).x
    free = denoise.denoise(MODELS, terms, table, active, start, first, last, None).x
    sigma = 0.03 if solver == "ddim" else 0  # DDIM of SD 1.5 ends at timestep 0
    assert np.abs(x[:, :, :3] - z[:, :, :3]).max() < 5 * sigma + 1e-4
    assert np.abs(x[:, :, 3:] - z[:, :, 3:]).max() > 0.1 and np.abs(x - free).max() > 0.1
    np.testing.assert_array_equal(denoise.insert_known(x, known)[:, :, :3], z[:, :, :3])
    np.testing.assert_array_equal(denoise.insert_known(x, known)[:, :, 3:], x[:, :, 3:])
    nothing = denoise.Known(np.zeros_like(mask), z, state.x)
    np.testing.assert_allclose(
        denoise.denoise(MODELS, terms, table, active, start, first, last, nothing).x, free, atol=1e-5
    )


def test_a_long_latent_is_evaluated_in_windows_through_the_view():
    shapes = []

    def narrow(weights, x, t, text):
        shapes.append(x.shape[1:3])
        return x * 0.5

    (term, _), *_ = make_run()
    term = dataclasses.replace(term, view=VIEWS["rotate_90"], windows=Windows.cover(30, 6, wrap=False))
    x = denoise.initial_noise(np.arange(2, dtype=np.uint32), (4, 30, 4))
    noise, _ = denoise.guided_noise(Partial(narrow, {}), x, jnp.int32(1), term)
    np.testing.assert_allclose(noise, x * 0.5, atol=1e-6)
    assert set(shapes) == {(6, 4)}


def test_a_view_rearranges_the_latent_for_the_model():
    view = VIEWS["block_rearrange"]
    x = denoise.initial_noise(np.arange(2, dtype=np.uint32), (32, 128, 4))
    assert view.apply(x).shape == (2, 64, 64, 4)
    np.testing.assert_array_equal(view.apply(x)[:, :32], x[:, :, :64])  # upper half = left half
    np.testing.assert_array_equal(view.invert(view.apply(x)), x)

    def uneven(weights, x, t, text):
        return x * jnp.arange(x.shape[1])[:, None, None]  # differs from row to row

    (term, _), *_ = make_run()
    term = denoise.Term(term.texts, term.guidance_scale, term.weights, view)
    x = jnp.ones((2, *SHAPE))
    noise, _ = denoise.guided_noise(Partial(uneven, {}), x, jnp.int32(1), term)
    np.testing.assert_array_equal(noise[0, :, :, 0], np.arange(4)[:, None] + 4 * (np.arange(6) >= 3))


def count_evaluations(**settings):
    """Returns how often a run evaluates the image and the audio model, and the batch size of each."""
    count, batch = {"image": 0, "audio": 0}, {}

    def counted(name, weights, x, t, text):
        batch[name] = len(x)
        jax.debug.callback(lambda: count.update({name: count[name] + 1}))
        return fake_eps(weights, x, t, text)

    models = [
        Partial(counted_as, w)
        for counted_as, w in zip(
            (lambda *a: counted("image", *a), lambda *a: counted("audio", *a)), WEIGHTS, strict=True
        )
    ]
    terms, *run = make_run(**settings)
    # As in the pipeline, texts at guidance scale 1 lack the negative prompt.
    terms = [
        dataclasses.replace(term, texts=term.texts[:, 1:]) if (term.guidance_scale == 1).all() else term
        for term in terms
    ]
    sample(terms, *run, models=models)
    jax.effects_barrier()
    return count, batch


def test_a_model_is_not_evaluated_before_its_start_step():
    assert count_evaluations(num_steps=100, starts=(10, 0))[0] == {"image": 90, "audio": 100}


def test_a_model_without_weight_is_not_evaluated():
    assert count_evaluations(weights=(0, 1))[0] == {"image": 0, "audio": 20}
    # A single sample that needs it is enough.
    assert count_evaluations(weights=[[0, 0.5], [1, 1]], starts=(0, 0))[0] == {"image": 20, "audio": 20}


def test_guidance_scale_1_skips_the_negative_prompt():
    assert count_evaluations(guidance=(1, 3), num_steps=2, starts=(0, 0))[1] == {"image": 2, "audio": 4}


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


def test_a_term_without_negative_prompt_equals_guidance_scale_1():
    terms, *run = make_run(guidance=(1, 3))
    expected = sample(terms, *run).x
    terms[0] = dataclasses.replace(terms[0], texts=terms[0].texts[:, 1:], guidance_scale=np.full(2, np.nan))
    np.testing.assert_allclose(sample(terms, *run).x, expected, rtol=0, atol=1e-5)


def test_guidance_scale_may_differ_from_step_to_step():
    terms, *run = make_run(guidance=(3, 7.5))
    expected = sample(terms, *run).x
    tables = [np.repeat(term.guidance_scale[:, None], 1000, axis=1) for term in terms]
    per_step = [dataclasses.replace(term, guidance_scale=a) for term, a in zip(terms, tables, strict=True)]
    np.testing.assert_array_equal(sample(per_step, *run).x, expected)
    tables[0][:, 5] = 1
    assert relative_error(sample(per_step, *run).x, expected) > 1e-4


def test_a_run_in_several_calls_gives_the_same_bits():
    terms, table, active, state, last = make_run(num_steps=17, solver="dpmpp_2m")
    whole = sample(terms, table, active, state, last)
    denoise.denoise.clear_cache()
    for first in range(0, 17, 5):
        state = denoise.denoise(MODELS, terms, table, active, state, np.int32(first), np.int32(min(first + 5, 17)))
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    assert denoise.denoise._cache_size() == 1


def test_a_failing_sample_is_reported_and_does_not_affect_the_others():
    def explodes(weights, x, t, text):
        return jnp.where((text[:, :1, :1, None] > 99) & (t[0] < 500), jnp.nan, fake_eps(weights, x, t, text))

    models = [Partial(explodes, w) for w in WEIGHTS]
    terms, table, active, state, last = make_run(b=3, num_steps=10)
    good = sample(terms, table, active, state, last, models=models)
    assert good.failed_at.tolist() == [-1, -1, -1] and np.isfinite(good.x).all()
    terms[0].texts[1] = 100
    bad = sample(terms, table, active, state, last, models=models)
    assert bad.failed_at.tolist() == [-1, int(np.argmax(table.t < 500)), -1]
    np.testing.assert_array_equal(bad.x[::2], good.x[::2])


def test_a_model_without_weight_cannot_spoil_a_sample():
    def broken(weights, x, t, text):
        return jnp.full_like(x, jnp.nan)

    run = make_run(weights=[[0, 1], [1, 1]], starts=(0, 0))
    assert sample(*run, models=[Partial(broken, {}), MODELS[1]]).failed_at.tolist() == [-1, 0]


def make_mesh(n):
    return jax.make_mesh((n,), ("data",), devices=jax.devices()[:n], axis_types=(AxisType.Auto,))


def place(run, n):
    """Places a run on `n` devices, with the batch sharded and the rest replicated."""
    mesh = make_mesh(n)
    sharded, replicated = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    terms, table, active, state, last = run
    terms, state = jax.device_put((terms, state), sharded)
    models, table, active, first, last = jax.device_put((MODELS, table, active, np.int32(0), last), replicated)
    return models, terms, table, active, state, first, last


def test_eight_devices_need_no_communication_and_agree_with_one():
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


def test_several_calls_on_eight_devices_compile_once():
    models, terms, table, active, state, _, _ = place(make_run(b=8), 8)
    denoise.denoise.clear_cache()
    for first in (0, 5, 10):
        state = denoise.denoise(models, terms, table, active, state, np.int32(first), np.int32(first + 5))
    assert denoise.denoise._cache_size() == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sharded_jit_gives_the_bits_of_pmap():
    run = make_run(b=16, num_steps=12, solver="dpmpp_2m")
    models, terms, table, active, state, first, last = place(run, 8)
    sharded = denoise.denoise(models, terms, table, active, state, first, last)

    def per_device(tree):
        return jax.tree.map(lambda a: np.array(a).reshape(8, 2, *a.shape[1:]), tree)

    mapped = jax.pmap(denoise.denoise.__wrapped__, in_axes=(None, 0, None, None, 0, None, None))
    found = mapped(MODELS, per_device(terms), run[1], run[2], per_device(state), np.int32(0), run[4])
    jax.tree.map(np.testing.assert_array_equal, found, per_device(sharded))


def test_noise_depends_only_on_the_seed():
    seeds = np.array([7, 0, 3, 2**32 - 1, 11, 5, 6, 4], np.uint32)
    shape = (16, 32, 4)
    draw = jax.jit(denoise.initial_noise, static_argnums=1)
    noise = draw(seeds, shape)
    sharded = draw(jax.device_put(seeds, NamedSharding(make_mesh(8), PartitionSpec("data"))), shape)
    np.testing.assert_array_equal(sharded, noise)
    for i, seed in enumerate(seeds):
        np.testing.assert_array_equal(draw(np.array([seed]), shape)[0], noise[i])
    assert noise.dtype == jnp.float32 and abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    assert np.abs(np.corrcoef(noise.reshape(8, -1)) - np.eye(8)).max() < 0.1
