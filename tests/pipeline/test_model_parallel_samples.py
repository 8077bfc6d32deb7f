"""Whole samples on two, four and six devices: they equal those of one device, and each device holds its own term."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import soundfile

from convert import conversion
from its_jax import Pipeline, sample
from its_jax.errors import UserError
from its_jax.media import images, sounds
from its_jax.settings.parse import read_settings
from its_jax.storage.files import read_json
from tests.helpers import model_folder
from tests.helpers.collectives import COLLECTIVES
from tests.helpers.sample_settings import replace_in_term

SETTINGS = {"num_samples": 4, "batch_size": 4, "cache_interval": 2, "solver": "dpmpp_2m"}

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def expand(small):
    """Returns the settings of samples, with changes of the small config."""
    return lambda change=None, **more: read_settings(small(SETTINGS | (change or {}), **more).to_dict())[0]


@pytest.fixture(scope="module")
def compiled(expand):
    """Compiles programs by devices per sample; returns each with all stages that were compiled for it."""
    (settings,), found = expand(num_samples=1), {}
    compile_stage = jax.stages.Lowered.compile
    for n in (1, 2, 4):
        stages = []

        def record(lowered, *args, stages=stages, **options):
            stages.append(compile_stage(lowered, *args, **options))
            return stages[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.stages.Lowered, "compile", record)
            program = Pipeline().compile(settings, batch_size=4, devices_per_sample=n)
        found[n] = program, stages
    return found


@pytest.fixture(scope="module")
def programs(compiled):
    return {n: program for n, (program, _) in compiled.items()}


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_samples_equal_those_of_one_device(expand, programs):
    batch = [  # each with numbers and prompts of its own
        replace_in_term(settings, "image", weight=0.2 + i, guidance_scale=2.0 + i, start_step=1, prompt="cat " * i)
        for i, settings in enumerate(expand())
    ]
    assert {n: program.batch_size for n, program in programs.items()} == {1: 8, 2: 4, 4: 4}
    expected = programs[1](batch)
    for n in (2, 4):
        for ours, theirs in zip(programs[n](batch), expected, strict=True):
            assert ours.devices_per_sample == n and ours.failed_at == -1
            assert_close(ours.latents, theirs.latents)
            # Rounding to 256 levels takes a few values that lie between two of them to different ones.
            differences = np.abs(ours.image - theirs.image)
            assert differences.max() < 1.01 / 255 and (differences > 0).mean() < 0.05


def test_devices_of_a_sample_communicate_in_the_denoising_loop_only(compiled):
    for n in (2, 4):
        program, stages = compiled[n]
        denoise = program.programs["denoise"]
        lines = collectives_of(denoise)
        assert len(lines) == 1 and re.search(rf"f32\[{4 * n // 8},6,24,4\]\S* all-reduce\(", lines[0]), lines
        assert re.search(r'op_name="\S*/while/body/[^"/]*psum', lines[0]), lines
        others = [stage for stage in stages if stage is not denoise]
        assert len(others) >= 9  # texts and their batches for two models, noise, first state, caches, decoder, vocoder
        assert not any(map(collectives_of, others))


def collectives_of(program):
    """Returns the lines of a compiled program in which devices communicate."""
    return [line for line in program.as_text().splitlines() if re.search(rf"({COLLECTIVES})(?:-start)?\(", line)]


def bytes_on_devices(trees):
    """Returns the bytes that these arrays take on each device; arrays that share memory count once."""
    buffers = {
        (shard.device, shard.data.unsafe_buffer_pointer()): shard.data.nbytes
        for leaf in jax.tree.leaves(trees)
        for shard in leaf.addressable_shards
    }
    return {device: sum(n for (on, _), n in buffers.items() if on == device) for device in jax.local_devices()}


def test_a_device_holds_the_weights_of_its_own_term_only(programs):
    def held(program):
        components = program.components
        modules = [(model.text_encoder, model.unet) for model in components.models.values()]
        return np.array(list(bytes_on_devices((modules, components.unets)).values()))

    whole = held(programs[1])
    assert whole.min() == whole.max() > 1e5
    for n in (2, 4):
        np.testing.assert_array_equal(2 * held(programs[n]), whole)
        analyses = [programs[i].programs["denoise"].memory_analysis() for i in (n, 1)]
        assert analyses[0].argument_size_in_bytes < 0.6 * analyses[1].argument_size_in_bytes


class PipelineOfPrograms:
    """Returns the program for the requested number of devices per sample, and lists what was requested."""

    def __init__(self, programs):
        self._programs, self.requests = programs, []

    def compile(self, settings, *, devices_per_sample, batch_size, **options):
        self.requests.append((devices_per_sample, batch_size))
        return self._programs[devices_per_sample]


def test_a_sample_is_generated_again_on_as_many_devices(small, programs, tmp_path):
    pipeline = PipelineOfPrograms(programs)
    sample.run(small(SETTINGS, devices_per_sample=4), tmp_path / "out", pipeline)
    (folder,) = (tmp_path / "out").glob("*_3_*")
    record = read_json(folder / "sample.json")
    assert (record["run"]["devices_per_sample"], record["run"]["position"]) == (4, 3)
    sample.run_again(folder / "spectrogram.png", tmp_path / "again", pipeline)
    assert pipeline.requests == [(4, 4), (4, 4)]
    (again,) = (tmp_path / "again").iterdir()
    assert again.name == folder.name
    for name in ("image.png", "spectrogram.png"):
        np.testing.assert_array_equal(*(images.read_png(f / name)[0] for f in (folder, again)))
    np.testing.assert_array_equal(*(sounds.read_wav(f / "audio.wav")[0] for f in (folder, again)))


@pytest.mark.slow
def test_a_third_term_windows_a_loop_and_an_audio_file_give_the_sample_of_one_device(small, tmp_path):
    """The third term uses the image's model on devices of its own; audio has no guidance, and a part of it is kept."""
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 960), 16000)
    change = {"window": 24, "wrap": True, "init_audio": str(tmp_path / "noise.wav"), "strength": 0.75}
    change |= {"keep": "0-0.01s", "num_samples": 1, "cache_interval": 1, "audio.guidance_scale": 1.0}
    config = small(SETTINGS | change).to_dict()
    config["turned"] = config["image"] | {"view": "rotate_180", "prompt": "a dog"}
    batch, _ = read_settings(config)
    found, devices = {}, jax.local_devices()[:6]
    for n in (1, 6):
        program = Pipeline(devices=devices).compile(batch[0], batch_size=1, devices_per_sample=n)
        assert program.components.models["turned"] is program.components.models["image"]
        (found[n],) = program(batch)
    assert_close(found[6].latents, found[1].latents)
    assert found[6].images.keys() == {"image", "turned"}


# Refused combinations


class NoLoader:
    """Fails the test that reads a model."""

    def __getattr__(self, name):
        raise AssertionError("no model should be read")


def test_devices_that_cannot_be_divided_are_refused_before_models_are_read(small):
    (settings,), options = read_settings(small(SETTINGS, devices_per_sample=3, num_samples=1).to_dict())
    assert options.devices_per_sample == 3
    pipeline = Pipeline(loader=NoLoader())
    for n in (3, 0, -2, 8):
        words = rf"devices_per_sample={n}: must be 1, 2 .*or 4 .*the number of devices, 8: here 1 or 2 or 4"
        with pytest.raises(UserError, match=words):
            pipeline.compile(settings, devices_per_sample=n)
    three = dataclasses.replace(settings, terms={**settings.terms, "turned": settings.terms["image"]})
    with pytest.raises(UserError, match=r"devices_per_sample=3: must be 1, 3 .*or 6 .*: here 1$"):
        pipeline.compile(three, devices_per_sample=3)


def test_unets_that_differ_cannot_share_a_sample(expand, tmp_path):
    model_folder.build(tmp_path / "source", seed=2, vocoder=False)
    unet = tmp_path / "source" / "unet"
    for file in unet.iterdir():
        file.unlink()
    model_folder.small_unet(2, use_linear_projection=True).save_pretrained(unet)
    other = str(conversion.convert(str(tmp_path / "source"), tmp_path / "other"))
    (settings,) = expand({"image.model": other}, num_samples=1)
    with pytest.raises(UserError, match="the UNets of image and audio differ in their configs.*set it to 1"):
        Pipeline().compile(settings, devices_per_sample=2)
