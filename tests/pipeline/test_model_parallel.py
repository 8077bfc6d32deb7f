"""One sample on several of eight virtual devices: the result of one device, with one all-reduce per step."""

import dataclasses
import itertools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import Partial

from its_jax.diffusion import denoise
from its_jax.diffusion.feature_cache import Mode, empty_caches
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import solver_table
from its_jax.diffusion.term_schedule import select_modes, term_weights
from its_jax.diffusion.views import VIEWS
from its_jax.diffusion.windows import Windows
from its_jax.errors import UserError
from its_jax.pipeline import model_parallel
from tests.helpers.collectives import COLLECTIVES

SCHEDULE = NoiseSchedule(1000, 0.00085, 0.012, "scaled_linear", steps_offset=1)
SHAPE = (4, 6, 4)  # h w c
STEPS = 8
COLLECTIVE = re.compile(rf"({COLLECTIVES})(?:-start)?\(")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layered:
    """A model that tells rows, columns, timesteps and texts apart, with an inner and an outer part."""

    latent_kernel: jax.Array
    text_kernel: jax.Array

    @classmethod
    def random(cls, seed):
        rng = np.random.default_rng(seed)
        arrays = rng.normal(scale=0.4, size=(4, 4)), rng.normal(scale=0.3, size=(5, 4))
        return cls(*(a.astype(np.float32) for a in arrays))

    def __call__(self, x, t, text):
        return self.with_features(x, t, text)[0]

    def with_features(self, x, t, text):
        place = jnp.arange(x.shape[1])[:, None, None] - 0.5 * jnp.arange(x.shape[2])[:, None]
        shift = (text.mean(axis=1) @ self.text_kernel)[:, None, None, :]
        inner = jnp.tanh(x @ self.latent_kernel + 0.1 * place + shift + jnp.sin(t / 200.0)[:, None, None, None])
        return self.from_features(x, t, text, inner), inner

    def from_features(self, x, t, text, inner):
        return inner + 0.1 * x


def make_run(b, terms, *, unguided=(), starts=0, width=SHAPE[1], windows=None, cache_interval=1, guided_steps=STEPS):
    """Returns models and the other arguments of `denoise`, all on the host; samples differ in all numbers."""
    rng = np.random.default_rng(b)
    weights, starts = rng.uniform(0.2, 1, (terms, b)), np.broadcast_to(np.asarray(starts).reshape(-1, 1), (terms, b))
    table, active = term_weights(weights, starts, STEPS, SCHEDULE)
    batch_terms, modes_of_steps = [], []
    for i, view in enumerate(("identity", "identity", "rotate_180", "rotate_90")[:terms]):
        scale = np.repeat(rng.uniform(2, 8, (b, 1)).astype(np.float32), len(active[i]), axis=1)
        scale[:, 0 if i in unguided else guided_steps :] = 1
        guided = (False,) if i in unguided else (True,) if guided_steps == STEPS else (True, False)
        cached = (False, True) if cache_interval > 1 else (False,)
        modes = tuple(itertools.starmap(Mode, itertools.product(guided, cached)))
        texts = rng.normal(size=(b, 1 if i in unguided else 2, 3, 5)).astype(np.float32)
        batch_terms.append(denoise.Term(texts, scale, table[i], VIEWS[view], windows, modes))
        guided = (scale != 1).any(axis=0) if guided == (True, False) else np.full(len(active[i]), guided[0])
        modes_of_steps.append(select_modes(active[i], guided, cache_interval, modes))
    noise = denoise.initial_noise(np.arange(b, dtype=np.uint32), (SHAPE[0], width, SHAPE[2]))
    models = [Layered.random(i) for i in range(terms)]
    return (
        models,
        batch_terms,
        solver_table(SCHEDULE, STEPS, "dpmpp_2m"),
        np.stack(modes_of_steps),
        denoise.initial_state(noise),
    )


def run_on_one_device(models, terms, table, modes, state):
    state = state._replace(caches=empty_caches(models, terms, state.x))
    return denoise.denoise(models, terms, table, modes, state, np.int32(0), np.int32(STEPS))


def compile_parallel(run, devices_per_sample, devices=None):
    """Returns the compiled program, and its arguments laid out on the devices."""
    models, terms, table, modes, state = run
    mesh = model_parallel.term_mesh(len(models), devices_per_sample, devices)
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    models = [jax.device_put(one, model_parallel.sub_mesh_sharding(mesh, [i])) for i, one in enumerate(models)]
    models = model_parallel.stack_shards(models, mesh, model_parallel.MODELS)
    placed = []
    for i, term in enumerate(terms):
        texts = np.concatenate([term.texts, term.texts], axis=1)[:, :2] if term.texts.shape[1] == 1 else term.texts
        placed.append(dataclasses.replace(jax.device_put(term, split), texts=put_texts(texts, mesh, i)))
    terms, state = model_parallel.Terms.stack(placed, mesh), jax.device_put(state, split)
    state = state._replace(caches=model_parallel.jit_empty_caches(mesh, terms)(models, terms, state.x))
    rest = jax.device_put((table, modes, np.int32(0), np.int32(STEPS)), whole)
    arguments = models, terms, *rest[:2], state, *rest[2:], None
    return model_parallel.lower_denoise(mesh, *arguments).compile(), arguments


def put_texts(texts, mesh, term):
    return jax.device_put(texts, model_parallel.sub_mesh_sharding(mesh, [term], model_parallel.TEXTS))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def assert_one_all_reduce(program, latent):
    """Checks that the only collective is an all-reduce of a latent's size, in the loop over steps but in no branch."""
    lines = [line for line in program.as_text().splitlines() if COLLECTIVE.search(line)]
    assert len(lines) == 1 and re.search(rf"f32\[{','.join(map(str, latent))}\]\S* all-reduce\(", lines[0]), lines
    assert re.search(r'op_name="\S*/while/body/[^"/]*psum', lines[0]), lines


CASES = {
    "different starts": {"starts": [3, 0]},
    "one unguided": {"unguided": [0]},
    "windows": {"width": 12, "windows": Windows.cover(12, 6, wrap=True)},
    "cached": {"cache_interval": 3, "guided_steps": 5, "starts": [0, 1]},
    "cached in windows": {"cache_interval": 2, "width": 12, "windows": Windows.cover(12, 6, wrap=False)},
}


@pytest.mark.parametrize("devices_per_sample", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_two_terms_give_the_result_of_one_device(case, devices_per_sample):
    run = make_run(2 * 8 // devices_per_sample, 2, **CASES[case])
    expected = run_on_one_device(*run)
    program, arguments = compile_parallel(run, devices_per_sample)
    assert_one_all_reduce(program, (2, *expected.x.shape[1:]))
    with jax.transfer_guard("disallow"):
        state = program(*arguments)
    assert_close(state.x, expected.x)
    np.testing.assert_array_equal(state.failed_at, -1)
    for shard in state.x.addressable_shards:  # devices of one sample agree to the bit
        np.testing.assert_array_equal(shard.data, np.asarray(state.x)[shard.index])


@pytest.mark.parametrize("devices_per_sample", [3, 6])
def test_three_terms_on_six_devices_give_the_result_of_one(devices_per_sample):
    run = make_run(6 // devices_per_sample, 3, unguided=[2], starts=[0, 2, 0])
    program, arguments = compile_parallel(run, devices_per_sample, jax.local_devices()[:6])
    assert_one_all_reduce(program, (1, *SHAPE))
    assert_close(program(*arguments).x, run_on_one_device(*run).x)


def test_four_terms_on_eight_devices_give_the_result_of_one():
    run = make_run(1, 4, starts=[0, 1, 2, 3], cache_interval=2)
    program, arguments = compile_parallel(run, 8)
    assert_close(program(*arguments).x, run_on_one_device(*run).x)


def test_devices_evaluate_a_model_only_at_steps_that_need_it():
    evaluations = []

    def counted(model, x, t, text):
        jax.debug.callback(lambda: evaluations.append(1))
        return model(x, t, text)

    models, *rest = make_run(2, 2, unguided=[0], starts=[3, 0])
    program, arguments = compile_parallel(([Partial(counted, model) for model in models], *rest), 4)
    jax.block_until_ready(program(*arguments))
    jax.effects_barrier()
    # Two samples: the first term from step 3 on, on one device of each; the second at all steps, on two.
    assert len(evaluations) == 2 * (STEPS - 3) + 2 * 2 * STEPS


@pytest.mark.parametrize("devices_per_sample", [2, 4])
def test_a_model_that_is_not_finite_spoils_no_sample_in_which_it_has_no_weight(devices_per_sample):
    models, terms, *rest = make_run(4, 2)
    models[0] = jax.tree.map(lambda w: np.full_like(w, np.nan), models[0])
    terms[0].weights[1] = 0
    program, arguments = compile_parallel((models, terms, *rest), devices_per_sample)
    assert program(*arguments).failed_at.tolist() == [0, -1, 0, 0]


def test_models_whose_texts_differ_in_length_are_refused():
    def model(tokens):
        tokenizer = types.SimpleNamespace(model_max_length=tokens)
        return types.SimpleNamespace(unet=types.SimpleNamespace(config=None), tokenizer=tokenizer)

    model_parallel.check_models({"image": model(77), "audio": model(77)})
    with pytest.raises(UserError, match="image takes texts of 77 tokens and audio of 40, .*set it to 1"):
        model_parallel.check_models({"image": model(77), "audio": model(40)})
