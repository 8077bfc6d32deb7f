"""One sample on several of eight virtual devices: the noise of one device, one all-reduce a step, half the weights."""

import dataclasses
import itertools
import pathlib
import re
import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import Partial

from convert import conversion
from its_jax import pretrained, sample
from its_jax.diffusion import denoise
from its_jax.diffusion.feature_cache import Mode, empty_caches
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import solver_table
from its_jax.diffusion.term_schedule import select_modes, term_weights
from its_jax.diffusion.views import VIEWS
from its_jax.diffusion.windows import Windows
from its_jax.errors import UserError
from its_jax.generate import production
from its_jax.media import images, sounds
from its_jax.pipeline import model_parallel
from its_jax.pipeline.sampler import Sampler
from its_jax.settings.parse import read_settings
from its_jax.storage.files import read_json
from tests.helpers import model_folder
from tests.helpers.collectives import COLLECTIVES
from tests.helpers.sample_settings import replace_in_term

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "default.py"
SCHEDULE = NoiseSchedule(1000, 0.00085, 0.012, "scaled_linear", steps_offset=1)
SHAPE = (4, 6, 4)  # h w c
STEPS = 8
COLLECTIVE = re.compile(rf"({COLLECTIVES})(?:-start)?\(")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layered:
    """A model that tells rows, columns, timesteps and texts apart, with an inner and an outer part."""

    of_x: jax.Array
    of_text: jax.Array

    @classmethod
    def random(cls, seed):
        rng = np.random.default_rng(seed)
        arrays = rng.normal(scale=0.4, size=(4, 4)), rng.normal(scale=0.3, size=(5, 4))
        return cls(*(a.astype(np.float32) for a in arrays))

    def __call__(self, x, t, text):
        return self.with_features(x, t, text)[0]

    def with_features(self, x, t, text):
        place = jnp.arange(x.shape[1])[:, None, None] - 0.5 * jnp.arange(x.shape[2])[:, None]
        told = (text.mean(axis=1) @ self.of_text)[:, None, None, :]
        inner = jnp.tanh(x @ self.of_x + 0.1 * place + told + jnp.sin(t / 200.0)[:, None, None, None])
        return self.from_features(x, t, text, inner), inner

    def from_features(self, x, t, text, inner):
        return inner + 0.1 * x


def make_run(b, terms, *, unguided=(), starts=0, width=SHAPE[1], windows=None, cache_interval=1, guided_steps=STEPS):
    """Models and the rest that `denoise` takes, all on the host; every sample has numbers of its own."""
    rng = np.random.default_rng(b)
    weights, starts = rng.uniform(0.2, 1, (terms, b)), np.broadcast_to(np.asarray(starts).reshape(-1, 1), (terms, b))
    table, active = term_weights(weights, starts, STEPS, SCHEDULE)
    of_terms, chosen = [], []
    for i, view in enumerate(("identity", "identity", "rotate_180", "rotate_90")[:terms]):
        scale = np.repeat(rng.uniform(2, 8, (b, 1)).astype(np.float32), len(active[i]), axis=1)
        scale[:, 0 if i in unguided else guided_steps :] = 1
        guided = (False,) if i in unguided else (True,) if guided_steps == STEPS else (True, False)
        reused = (False, True) if cache_interval > 1 else (False,)
        ways = tuple(itertools.starmap(Mode, itertools.product(guided, reused)))
        texts = rng.normal(size=(b, 1 if i in unguided else 2, 3, 5)).astype(np.float32)
        of_terms.append(denoise.Term(texts, scale, table[i], VIEWS[view], windows, ways))
        guided = (scale != 1).any(axis=0) if guided == (True, False) else np.full(len(active[i]), guided[0])
        chosen.append(select_modes(active[i], guided, cache_interval, ways))
    noise = denoise.initial_noise(np.arange(b, dtype=np.uint32), (SHAPE[0], width, SHAPE[2]))
    models = [Layered.random(i) for i in range(terms)]
    return models, of_terms, solver_table(SCHEDULE, STEPS, "dpmpp_2m"), np.stack(chosen), denoise.initial_state(noise)


def on_one_device(models, terms, rows, chosen, state):
    state = state._replace(caches=empty_caches(models, terms, state.x))
    return denoise.denoise(models, terms, rows, chosen, state, np.int32(0), np.int32(STEPS))


def spread_out(run, devices_per_sample):
    """The compiled program, and its arguments laid out on the devices."""
    models, terms, rows, chosen, state = run
    mesh = model_parallel.mesh(len(models), devices_per_sample)
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    models = [jax.device_put(one, model_parallel.sub_mesh_sharding(mesh, [i])) for i, one in enumerate(models)]
    models = model_parallel.stack_shards(models, mesh, model_parallel.MODELS)
    placed = []
    for i, term in enumerate(terms):
        texts = np.concatenate([term.texts, term.texts], axis=1)[:, :2] if term.texts.shape[1] == 1 else term.texts
        placed.append(dataclasses.replace(jax.device_put(term, split), texts=put_texts(texts, mesh, i)))
    terms, state = model_parallel.Terms.of(placed, mesh), jax.device_put(state, split)
    state = state._replace(caches=model_parallel.empty_caches(mesh, terms)(models, terms, state.x))
    rest = jax.device_put((rows, chosen, np.int32(0), np.int32(STEPS)), whole)
    arguments = models, terms, *rest[:2], state, *rest[2:], None
    return model_parallel.lower(mesh, *arguments).compile(), arguments


def put_texts(texts, mesh, term):
    return jax.device_put(texts, model_parallel.sub_mesh_sharding(mesh, [term], model_parallel.TEXTS))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def assert_one_small_sum(program, latent):
    """One all-reduce, of a latent's size, in the loop over steps and in none of its branches; no other collective."""
    lines = [line for line in program.as_text().splitlines() if COLLECTIVE.search(line)]
    assert len(lines) == 1 and re.search(rf"f32\[{','.join(map(str, latent))}\]\S* all-reduce\(", lines[0]), lines
    assert re.search(r'op_name="\S*/while/body/[^"/]*psum', lines[0]), lines


@pytest.fixture
def six_devices(monkeypatch):
    devices = jax.local_devices()
    monkeypatch.setattr(jax, "local_devices", lambda: devices[:6])


CASES = {
    "start": {"starts": [3, 0]},
    "unguided": {"unguided": [0]},
    "windows": {"width": 12, "windows": Windows.cover(12, 6, wrap=True)},
    "reused": {"cache_interval": 3, "guided_steps": 5, "starts": [0, 1]},
    "reused in windows": {"cache_interval": 2, "width": 12, "windows": Windows.cover(12, 6, wrap=False)},
}


@pytest.mark.parametrize("devices_per_sample", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_two_terms_give_what_one_device_gives(case, devices_per_sample):
    run = make_run(2 * 8 // devices_per_sample, 2, **CASES[case])
    expected = on_one_device(*run)
    program, arguments = spread_out(run, devices_per_sample)
    assert_one_small_sum(program, (2, *expected.x.shape[1:]))
    with jax.transfer_guard("disallow"):
        state = program(*arguments)
    assert_close(state.x, expected.x)
    np.testing.assert_array_equal(state.failed_at, -1)
    for shard in state.x.addressable_shards:  # devices of one sample agree to the bit
        np.testing.assert_array_equal(shard.data, np.asarray(state.x)[shard.index])


@pytest.mark.parametrize("devices_per_sample", [3, 6])
def test_three_terms_on_six_devices(devices_per_sample, six_devices):
    run = make_run(6 // devices_per_sample, 3, unguided=[2], starts=[0, 2, 0])
    program, arguments = spread_out(run, devices_per_sample)
    assert_one_small_sum(program, (1, *SHAPE))
    assert_close(program(*arguments).x, on_one_device(*run).x)


def test_four_terms_on_eight_devices():
    run = make_run(1, 4, starts=[0, 1, 2, 3], cache_interval=2)
    program, arguments = spread_out(run, 8)
    assert_close(program(*arguments).x, on_one_device(*run).x)


def test_devices_rest_where_they_are_not_needed():
    evaluations = []

    def counted(model, x, t, text):
        jax.debug.callback(lambda: evaluations.append(1))
        return model(x, t, text)

    models, *rest = make_run(2, 2, unguided=[0], starts=[3, 0])
    program, arguments = spread_out(([Partial(counted, model) for model in models], *rest), 4)
    jax.block_until_ready(program(*arguments))
    jax.effects_barrier()
    # Two samples: the first term from step 3 on, on one device of each; the second at all steps, on two.
    assert len(evaluations) == 2 * (STEPS - 3) + 2 * 2 * STEPS


@pytest.mark.parametrize("devices_per_sample", [2, 4])
def test_a_model_without_weight_cannot_spoil_a_sample(devices_per_sample):
    models, terms, *rest = make_run(4, 2)
    models[0] = jax.tree.map(lambda w: np.full_like(w, np.nan), models[0])
    terms[0].weights[1] = 0
    program, arguments = spread_out((models, terms, *rest), devices_per_sample)
    assert program(*arguments).failed_at.tolist() == [0, -1, 0, 0]


# Whole samples


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two small models, converted."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("image", "audio")):
        model_folder.build(folder / "sources" / name, seed=seed, vocoder=name == "audio")
        conversion.convert(str(folder / "sources" / name), folder / name)
    return {f"{name}.model": str(folder / name) for name in ("image", "audio")}


@pytest.fixture(scope="module")
def settings(models):
    """Makes a config as a dictionary."""

    def get(**change):
        config = runpy.run_path(str(CONFIG))["get_config"]()
        small = {"num_samples": 4, "batch_size": 4, "num_steps": 4, "height": 12, "width": 48, "video": False}
        small |= {"cache_interval": 2}
        config.update_from_flattened_dict(small | {"image.start_step": 1} | models)
        return config.to_dict() | change

    return get


def make_sampler(one, devices_per_sample, batch_size):
    """Its programs are compiled without effort, for they run for milliseconds."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        return Sampler(one, pending=1, batch_size=batch_size, devices_per_sample=devices_per_sample)
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def samplers(settings):
    """By devices per sample."""
    one = read_settings(settings())[0][0]
    return {n: make_sampler(one, n, 4) for n in (1, 2, 4)}


def test_samples_are_those_of_one_device(settings, samplers):
    batch, _ = read_settings(settings())
    batch = [  # each with numbers and prompts of its own
        replace_in_term(one, "image", weight=0.2 + i, guidance_scale=2.0 + i, start_step=1, prompt="cat " * i)
        for i, one in enumerate(batch)
    ]
    assert {n: sampler.batch_size for n, sampler in samplers.items()} == {1: 8, 2: 4, 4: 4}
    expected = samplers[1](batch)
    for n in (2, 4):
        for ours, theirs in zip(samplers[n](batch), expected, strict=True):
            assert_close(ours.latents, theirs.latents)
            np.testing.assert_allclose(ours.pictures["image"], theirs.pictures["image"], rtol=0, atol=1e-4)
            assert ours.failed_at == -1


def test_devices_of_a_sample_talk_in_the_denoising_loop_alone(samplers):
    for n in (2, 4):
        one = samplers[n]
        assert_one_small_sum(one._denoise, (4 * n // 8, 6, 24, 4))
        for program in (
            *one._encode.values(),
            *one._join.values(),
            one._draw,
            one._start,
            one._empty_caches,
            one._decode,
            one._vocode,
        ):
            assert not COLLECTIVE.search(program.as_text())


def bytes_on_devices(trees):
    """Device -> bytes that these arrays hold there, those that several of them hold once."""
    buffers = {
        (shard.device, shard.data.unsafe_buffer_pointer()): shard.data.nbytes
        for leaf in jax.tree.leaves(trees)
        for shard in leaf.addressable_shards
    }
    return {device: sum(n for (on, _), n in buffers.items() if on == device) for device in jax.local_devices()}


def test_a_device_holds_the_weights_of_its_term_alone(samplers):
    def held(sampler):
        modules = [(model.text_encoder, model.unet) for model in sampler.models.values()]
        return np.array(list(bytes_on_devices((modules, sampler._unets)).values()))

    whole = held(samplers[1])
    assert whole.min() == whole.max() > 1e5
    for n in (2, 4):
        np.testing.assert_array_equal(2 * held(samplers[n]), whole)
        arguments = [samplers[i]._denoise.memory_analysis().argument_size_in_bytes for i in (n, 1)]
        assert arguments[0] < 0.6 * arguments[1]


def test_a_sample_is_made_again_on_as_many_devices(settings, samplers, tmp_path, monkeypatch):
    def make(settings, *, pending, batch_size, devices_per_sample):
        assert batch_size == 4
        return samplers[devices_per_sample]

    monkeypatch.setattr(production, "Sampler", make)
    config = runpy.run_path(str(CONFIG))["get_config"]()
    config.update(settings(devices_per_sample=4))
    sample.run(config, tmp_path / "out")
    (made,) = (tmp_path / "out").glob("*_3_*")
    record = read_json(made / "sample.json")
    assert (record["run"]["devices_per_sample"], record["run"]["position"]) == (4, 3)
    sample.run_again(made / "spectrogram.png", tmp_path / "again")
    (again,) = (tmp_path / "again").iterdir()
    assert again.name == made.name
    for name in ("image.png", "spectrogram.png"):
        np.testing.assert_array_equal(*(images.read_png(folder / name)[0] for folder in (made, again)))
    np.testing.assert_array_equal(*(sounds.read_wav(folder / "audio.wav")[0] for folder in (made, again)))


def test_every_other_choice(settings, tmp_path, six_devices):
    """A third term of the image's source, on its devices too; windows, a loop, a term without guidance, a file to
    start from, of which a part is kept."""
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 960), 16000)
    change = {"window": 24, "wrap": True, "init_audio": str(tmp_path / "noise.wav"), "strength": 0.75}
    change |= {"keep": "0-0.01s", "num_samples": 1, "cache_interval": 1}
    change["turned"] = settings()["image"] | {"view": "rotate_180", "prompt": "a dog"}
    change["audio"] = settings()["audio"] | {"guidance_scale": 1.0}
    batch, _ = read_settings(settings(**change))
    found = {}
    for n in (1, 6):
        sampler = make_sampler(batch[0], n, 1)
        assert sampler.models["turned"] is sampler.image
        (found[n],) = sampler(batch)
    assert_close(found[6].latents, found[1].latents)
    assert found[6].pictures.keys() == {"image", "turned"}


# What is refused


def test_devices_that_cannot_be_divided_so(settings, monkeypatch):
    monkeypatch.setattr(pretrained, "abstract_model", None)  # it is said before models are read
    batch, options = read_settings(settings(devices_per_sample=3))
    assert options.devices_per_sample == 3
    for n in (3, 0, -2, 8):
        words = rf"devices_per_sample={n}: must be 1, 2 .*or 4 .*the number of devices, 8: here 1 or 2 or 4"
        with pytest.raises(UserError, match=words):
            Sampler(batch[0], pending=1, devices_per_sample=n)
    terms = {**batch[0].terms, "turned": batch[0].terms["image"]}
    three = dataclasses.replace(batch[0], terms=terms)
    with pytest.raises(UserError, match=r"devices_per_sample=3: must be 1, 3 .*or 6 .*: here 1$"):
        Sampler(three, pending=1, devices_per_sample=3)


def test_unets_that_differ_cannot_be_joined(settings, models, tmp_path):
    model_folder.build(tmp_path / "source", seed=2, vocoder=False)
    narrow = tmp_path / "source" / "unet"
    for file in narrow.iterdir():
        file.unlink()
    model_folder.small_unet(2, use_linear_projection=True).save_pretrained(narrow)
    other = str(conversion.convert(str(tmp_path / "source"), tmp_path / "other"))
    batch, _ = read_settings(settings(image=settings()["image"] | {"model": other}))
    with pytest.raises(UserError, match="the UNets of image and audio differ in their configs.*set it to 1"):
        Sampler(batch[0], pending=1, devices_per_sample=2)


def test_texts_of_different_lengths_cannot_be_joined():
    def model(tokens):
        tokenizer = types.SimpleNamespace(model_max_length=tokens)
        return types.SimpleNamespace(unet=types.SimpleNamespace(config=None), tokenizer=tokenizer)

    model_parallel.check_models({"image": model(77), "audio": model(77)})
    with pytest.raises(UserError, match="image takes texts of 77 tokens and audio of 40, .*set it to 1"):
        model_parallel.check_models({"image": model(77), "audio": model(40)})
