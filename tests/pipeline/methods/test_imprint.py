"""Imprinting against the authors' arithmetic, and as a method: what it decodes, batches, files."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch

from its_jax import Pipeline, sample
from its_jax.diffusion.torch_noise import torch_noise
from its_jax.diffusion.views import VIEWS
from its_jax.pipeline import decoding, progress
from its_jax.pipeline.denoiser import Denoiser
from its_jax.pipeline.methods.imprint import decode_imprinted, imprint, two_noises
from its_jax.pipeline.prompt_encoder import TextStacker
from its_jax.settings.schema import TERMS
from its_jax.settings.steps import single_term, total_steps
from tests.helpers.fixed_pipeline import FixedPipeline
from tests.helpers.sample_settings import replace_in_term

IMPRINT = {"method": "imprint", "num_samples": 2}

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline()


@pytest.fixture(scope="module")
def program(pipeline, expand):
    return pipeline.compile(expand(IMPRINT)[0], pending=8)


@pytest.fixture(scope="module")
def fused_program(pipeline, expand):
    return pipeline.compile(expand()[0], pending=8)


def test_imprint_computes_what_the_authors_compute():
    rng = np.random.default_rng(0)
    image, spectrogram = rng.random((2, 3, 8, 16), np.float32)
    ratio, inverse = np.float32([0.5, 0.25, 1.0]), np.array([True, False, True])
    found = imprint(image, spectrogram, ratio, inverse)
    for i in range(3):
        shown = torch.from_numpy(image[i])
        shown = 1 - shown if inverse[i] else shown
        expected = torch.from_numpy(spectrogram[i]) * (1 - ratio[i] * shown)
        np.testing.assert_allclose(found[i], expected, atol=1e-7)


def denoise_audio_alone(program, settings, noise):
    """Returns the latents `[b, h, w, c]` of the audio model alone, from given noise."""
    components, batch = program.components, [settings] * program.batch_size
    stack = TextStacker(components.prompts, components.models, components.placement, settings, program.batch_size)
    denoiser = Denoiser(settings, components, stack.shapes, program.batch_size)
    noise = components.placement.put(np.stack([noise] * program.batch_size), sharded=True)
    texts, alone = stack(components.prompts.encode(batch)), [single_term(settings, "audio")] * program.batch_size
    latents, _ = denoiser(alone, texts, noise, progress.ignore, list)
    return np.asarray(latents)


def test_an_imprint_combines_what_each_model_generates_alone(expand, program, fused_program):
    own = {"noise": "torch", "seed": 5, "num_samples": 1}
    (settings,) = expand(IMPRINT | own | {"mag_ratio": 0.3, "inverse_image": False})
    settings = replace_in_term(settings, "image", num_steps=3)
    steps = []
    (imprinted,) = program([settings], lambda found: steps.append((found.step, found.num_steps)))
    assert steps == [(step, 7) for step in range(1, 8)] and total_steps(settings) == 7
    assert imprinted.fault is None
    components = program.components
    (image,) = fused_program(expand(own, method="image_only", num_steps=3))
    np.testing.assert_array_equal(imprinted.latents[0], image.latents)
    noise = torch_noise(5, components.latent_shape(settings), 1)
    np.testing.assert_array_equal(imprinted.latents[1], denoise_audio_alone(program, settings, noise)[0])
    vaes = [components.models[term].vae for term in TERMS]
    shown = [decoding.decode_latents(vae, z[None]).mean(-1) for vae, z in zip(vaes, imprinted.latents, strict=True)]
    expected = np.asarray(shown[1] * (1 - 0.3 * shown[0]))[0]
    np.testing.assert_allclose(imprinted.spectrogram, expected, rtol=0, atol=0.51 / 255)
    np.testing.assert_array_equal(imprinted.image, np.repeat(imprinted.spectrogram[..., None], 3, -1))
    (inverse,) = program([dataclasses.replace(settings, inverse_image=True, mag_ratio=1.0)])
    np.testing.assert_allclose(inverse.spectrogram, np.asarray(shown[1] * shown[0])[0], rtol=0, atol=0.51 / 255)


def test_the_noise_of_an_imprint_depends_on_its_seed_only(expand, program):
    one, two = program(expand(IMPRINT))
    (again,) = program(expand(IMPRINT, seed=1, num_samples=1), batch_index=1)
    np.testing.assert_array_equal(again.latents, two.latents)
    image, spectrogram = two_noises(np.uint32([0, 1]), (2, 3, 4))
    assert np.abs(image - spectrogram).min() > 0 and np.abs(one.latents[0] - two.latents[0]).max() > 0.1


def test_an_imprint_is_written_and_generated_again_from_its_file(small, program, tmp_path):
    fixed = FixedPipeline(program)
    sample.run(small(IMPRINT, batch_size=8, num_samples=1), tmp_path / "out", fixed)
    (folder,) = (tmp_path / "out").glob("*/")
    names = ["audio.wav", "image.png", "sample.json", "spectrogram.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    sample.run_again(folder / "audio.wav", tmp_path / "again", fixed)
    assert [request["batch_size"] for request in fixed.requests] == [8, 8]
    again = tmp_path / "again" / folder.name
    for name in ("image.png", "audio.wav"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("view", "cutoff", "wrap", "width"),
    [("identity", True, False, 48), ("identity", False, True, 96), ("block_rearrange", False, False, 96)],
)
def test_imprints_are_decoded_with_views_loops_and_cut_latents(program, view, cutoff, wrap, width):
    rng = np.random.default_rng(0)
    image, z = rng.normal(size=(2, 2, 6, 48 if wrap or not cutoff else 28, 4)).astype(np.float32)
    vaes, view = program.components.vaes, VIEWS[view]
    numbers = np.ones(2, np.float32), np.array([True, False])
    options = dict(vae_of_term=(0, 1), view=view, cutoff=cutoff, wrap=wrap)
    heard, (seen,) = jax.jit(functools.partial(decode_imprinted, **options))(vaes, image, z, *numbers)
    frames = (1, VIEWS["identity"]), (0, view)
    alone, (other,) = decoding.decode(z, vaes, frames, cutoff=cutoff, wrap=wrap)
    assert heard.shape == alone.shape == (2, 12, width) and seen.shape == other.shape
    (_, (shown,)) = decoding.decode(image, vaes, frames, cutoff=cutoff, wrap=wrap)
    gray = view.invert(shown.mean(-1, keepdims=True))[..., 0]
    np.testing.assert_allclose(heard[0], (alone * gray)[0], atol=1.1 / 255)
    np.testing.assert_allclose(heard[1], (alone * (1 - gray))[1], atol=1.1 / 255)
    np.testing.assert_array_equal(view.invert(seen)[..., 1], heard)
