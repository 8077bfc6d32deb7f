"""The configs that we ship hold the published examples and the authors' settings."""

import dataclasses

import pytest

from its_jax.errors import UserError
from its_jax.settings.parse import expand, read_settings
from its_jax.settings.steps import active_steps, denoising_runs, image_terms, total_steps
from its_jax.settings.validate import validate
from tests.helpers.configs import get_config

GRAYSCALE = "a painting of {}, grayscale".format
EXAMPLES = {
    "bell": (GRAYSCALE("castle towers"), "bell ringing", 1234, 100),
    "corgi": (GRAYSCALE("corgis") + ", black background", "dog barking", 2034, 50),
    "dog": (GRAYSCALE("cute dogs"), "dog barking", 1234, 100),
    "garden": (GRAYSCALE("a blooming garden with many birds"), "birds singing sweetly", 1234, 100),
    "garden-v2": (GRAYSCALE("a blooming garden"), "birds singing sweetly", 1234, 100),
    "horse": (GRAYSCALE("horse heads") + ", black background", "horse neighing", 1234, 1000),
    "kitten": (GRAYSCALE("furry kittens"), "a kitten meowing for attention", 1234, 100),
    "pond": ("a pond full of water lilies, grayscale, lithograph style", "frog croaking", 2024, 100),
    "race": (GRAYSCALE("auto racing game"), "a race car passing by and disappearing", 1234, 100),
    "tiger": (GRAYSCALE("tigers"), "tiger growling", 1234, 100),
    "train": (GRAYSCALE("trains"), "train whistling", 1234, 100),
}


def test_the_published_examples():
    for name, (image, audio, seed, num_samples) in EXAMPLES.items():
        config = get_config("sd15_auffusion", name)
        assert (config.image.prompt, config.audio.prompt) == (image, audio)
        assert (config.seed, config.num_samples) == (seed, num_samples)
        made, _ = read_settings(config.to_dict())
        assert len(made) == num_samples
    assert get_config("sd15_auffusion") == get_config("sd15_auffusion", "bell")
    assert get_config("sd15_auffusion", "fast") == get_config("sd15_auffusion", "bell+fast")
    fast, plain = (get_config("sd15_auffusion", name) for name in ("tiger+fast", "tiger"))
    assert fast.num_steps < plain.num_steps and fast.image.prompt == plain.image.prompt
    with pytest.raises(ValueError, match="'lion'"):
        get_config("sd15_auffusion", "lion+fast")


@pytest.mark.parametrize("example", ["upside_down", "square"])
def test_the_view_examples_have_the_documented_terms(example):
    (one,) = expand(get_config("views", example).to_dict(), 1)
    assert image_terms(one) == (["image", "upside_down"] if example == "upside_down" else ["image"])
    with pytest.raises(ValueError, match="no example 'x'; choose one of upside_down, square"):
        get_config("views", "x")


def test_the_imprint_of_the_authors():
    (one,) = expand(get_config("imprint", "tiger").to_dict(), 1)
    assert [run.num_steps for run in denoising_runs(one)] == [50, 100] and total_steps(one) == 150
    assert one.terms["image"].guidance_scale == one.terms["audio"].guidance_scale == 7.5 and one.noise == "torch"
    assert one.mag_ratio == 0.5 and one.inverse_image
    (one,) = expand(get_config("imprint").to_dict(), 1)
    assert total_steps(one) == 50
    with pytest.raises(UserError, match="uses only image and audio: remove dog"):
        validate(dataclasses.replace(one, terms={**one.terms, "dog": one.terms["image"]}))


def test_score_distillation_of_the_authors():
    (one,) = expand(get_config("sds", "tiger").to_dict(), 1)
    assert one.learning_rate == 1e-4 and one.terms["audio"].weight == 1.0 and one.terms["image"].weight == 0.4
    assert one.terms["image"].model == "DeepFloyd/IF-I-M-v1.0"
    assert total_steps(one) == 40_000 and active_steps(one, "image").start == 5_000
    read_settings(get_config("sds").to_dict())


def test_the_settings_of_the_authors():
    (one,) = expand(get_config("sd15_auffusion").to_dict(), 1)
    assert (one.height, one.width, one.num_steps, one.solver) == (256, 1024, 100, "ddim")
    assert one.crop_image and not one.cutoff_latent and one.vocoder == "hifigan"
    assert one.noise == "torch" and one.terms["image"].view == "identity"
    for term, start in (("image", 10), ("audio", 0)):
        numbers = [
            getattr(one.terms[term], key) for key in ("guidance_scale", "weight", "start_step", "negative_prompt")
        ]
        assert numbers == [10.0, 0.5, start, ""]
