"""Compiled stages with small random models: what is data and compiles nothing, and what a batch depends on."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from its_jax import Pipeline
from tests.helpers.collectives import COLLECTIVES
from tests.helpers.sample_settings import replace_in_term

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline()


@pytest.fixture(scope="module")
def program(pipeline, expand):
    requested = expand()
    return pipeline.compile(requested[0], pending=len(requested), batch_size=2)


@pytest.fixture(scope="module")
def other_program(expand, models):
    """Two samples on each device, and every choice but the default one."""
    change = {"image.model": models["audio.model"], "image.view": "block_rearrange"}
    requested = expand(change, vocoder="griffin_lim", solver="dpmpp_2m", num_samples=16)
    return Pipeline().compile(requested[0], pending=16, batch_size=16), requested


def test_prompts_seeds_weights_and_steps_compile_nothing(expand, program):
    program(expand())
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    jax.jit(lambda x: x * 3 + 1)(np.arange(5.0))
    assert len(compilations) == 1  # shows that compilations are seen
    change = {"image.prompt": "a cat", "audio.prompt": "dog", "audio.negative_prompt": "cat", "seed": 50}
    change |= {"image.guidance_scale": 2.0, "image.weight": 0.9, "image.start_step": 3, "num_samples": 2}
    samples = program([*expand(change), *expand({"audio.weight": 0.0, "image.start_step": 0}, seed=9)])
    assert len(samples) == 5
    program(expand(num_steps=5, solver="dpmpp_2m"))
    assert len(compilations) == 1
    with pytest.raises(ValueError, match="samples of one batch must agree"):
        program([*expand(num_steps=5), *expand()])
    with pytest.raises(ValueError, match="samples of one program must agree"):
        program(expand(width=128))


def test_a_term_at_guidance_scale_1_ignores_its_negative_prompt(expand, pipeline):
    change = {"image.guidance_scale": 1.0}
    requested = expand(change, num_samples=1)
    program = pipeline.compile(requested[0])
    (sample,) = program(requested)
    (other,) = program(expand(change | {"image.negative_prompt": "a dog"}, num_samples=1))
    np.testing.assert_array_equal(sample.latents, other.latents)
    # A scale of 1 + 1e-6 takes the program with both prompts.
    near = expand({"image.guidance_scale": 1 + 1e-6}, num_samples=1)
    (expected,) = pipeline.compile(near[0])(near)
    np.testing.assert_allclose(sample.latents, expected.latents, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="guided"):
        program(near)


FEWER = {"cache_interval": 2, "image.guidance_start_step": 2, "audio.guidance_stop_step": 3}


@pytest.mark.parametrize("window", [0, pytest.param(24, marks=pytest.mark.slow)])
def test_guidance_and_cached_features_of_a_sample_do_not_depend_on_the_others(expand, pipeline, window):
    """Samples that are guided at different steps share a batch, but not where features are cached."""
    requested = expand(FEWER, window=window, num_samples=2, cache_interval=1)
    requested[1] = replace_in_term(requested[1], "image", guidance_start_step=3)
    program = pipeline.compile(requested[0], pending=2, batch_size=2)
    together = program(requested)
    for index, (sample, settings) in enumerate(zip(together, requested, strict=True)):
        (alone,) = program([settings], batch_index=index)
        np.testing.assert_allclose(sample.latents, alone.latents, rtol=0, atol=1e-5 * np.abs(alone.latents).max())
    requested = [dataclasses.replace(settings, cache_interval=3) for settings in requested]
    program = pipeline.compile(requested[0], pending=2, batch_size=2)
    with pytest.raises(ValueError, match="samples of one batch must agree"):
        program(requested)
    with pytest.raises(ValueError, match="samples of one batch must agree"):
        program([requested[0], replace_in_term(requested[0], "image", start_step=2)])
    apart = [program([settings])[0] for settings in expand(FEWER, window=window, num_samples=2)]
    plain = expand(window=window, num_samples=1)
    (whole,) = pipeline.compile(plain[0], batch_size=2)(plain)
    assert 1e-3 < np.abs(apart[0].latents - whole.latents).max() < np.abs(whole.latents).max()
    with pytest.raises(ValueError, match="must agree"):
        program(plain)


def test_a_batch_that_is_not_full_has_the_bits_of_a_full_one(expand, program):
    requested = expand(num_samples=8)
    full = program(requested)
    for one, other in zip(program(requested[:3]), full, strict=False):
        np.testing.assert_array_equal(one.latents, other.latents)
        np.testing.assert_array_equal(one.audio, other.audio)
    (alone,) = program(requested[5:6], batch_index=5)
    np.testing.assert_array_equal(alone.latents, full[5].latents)
    assert alone.batch_index == 5
    assert np.abs(full[0].latents - full[1].latents).max() > 0.1


def test_latents_do_not_depend_on_the_index_in_the_batch(other_program):
    program, requested = other_program
    assert program.batch_size == 16
    forwards, backwards = program(requested), program(requested[::-1])[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert one.batch_index == 15 - other.batch_index
        np.testing.assert_allclose(one.latents, other.latents, rtol=0, atol=1e-5)
    for one, other in zip(program(requested[:3]), forwards, strict=False):
        np.testing.assert_array_equal(one.latents, other.latents)


def test_a_view_lays_out_the_image_in_its_own_way(other_program):
    program, requested = other_program
    models = program.components.models
    assert models["audio"].vae is models["image"].vae
    (sample,) = program(requested[:1])
    # The halves of the image, one above the other, lie side by side in the spectrogram.
    assert sample.latents.shape == (6, 24, 4) and sample.image.shape == (24, 24, 3)
    assert sample.spectrogram.shape == (12, 48)
    assert sample.audio.shape == (48 * 20,) and sample.fault is None


@pytest.mark.slow
def test_bfloat16_is_close_to_float32(expand, program):
    requested = expand({"dtype": "bfloat16"}, num_samples=1)
    (rounded,) = Pipeline().compile(requested[0])(requested)
    (exact,) = program(expand(num_samples=1))
    assert rounded.fault is None and rounded.latents.dtype == np.float32
    difference = np.linalg.norm(rounded.latents - exact.latents) / np.linalg.norm(exact.latents)
    assert 0 < difference < 0.1  # 8 bits, some steps, guidance 5


def test_devices_do_not_communicate(program, other_program):
    for one in (program, other_program[0]):
        for compiled in one.programs.values():
            assert not re.search(COLLECTIVES, compiled.as_text())


def test_one_device_generates_the_latents_of_eight(expand, program):
    requested = expand(num_samples=3)
    eight = program(requested)
    one = Pipeline(devices=jax.local_devices()[:1]).compile(requested[0])
    assert (program.batch_size, one.batch_size) == (8, 1)
    for settings, sample in zip(requested, eight, strict=True):
        (alone,) = one([settings])
        np.testing.assert_allclose(alone.latents, sample.latents, rtol=0, atol=1e-5)
