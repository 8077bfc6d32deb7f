"""The settings of colorization."""

import pytest

from its_jax.colorize.settings import ColorSettings, subject
from its_jax.errors import UserError
from tests.helpers import finished_samples


@pytest.fixture
def for_first_trial(default_settings):
    """Returns what determines the first image of a sample."""

    def get(**changes):
        return ColorSettings.from_dict(default_settings | changes).for_trial(finished_samples.record(), 0)

    return get


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method": "latents"}, "colorize.method='latents' is not known here; choose one of factorized, latent"),
        ({"prompt": " "}, "colorize.prompt=' ': must not be empty"),
        ({"trials": 0}, "colorize.trials=0: must be 1 or more"),
        ({"start_step": 3}, "colorize.start_step=3: leaves 0 of 3 steps"),
        ({"method": "latent", "latent_start_step": 4}, "colorize.latent_start_step=4: leaves 0 of 3 steps"),
        ({"noise_level": -1}, "colorize.noise_level=-1: must not be negative"),
        ({"guidance_scale": float("nan")}, "colorize.guidance_scale=nan: must be a finite number"),
        ({"seed": 2**32 - 1}, "seed=4294967296: seeds must be 0 to"),
        ({"dtype": "int8"}, "colorize.dtype='int8' is not known here; choose one of float32"),
        ({"stage_1": ""}, "colorize.stage_1='': must name a pixel model"),
        ({"promt": "a"}, "there is no setting colorize.promt; did you mean colorize.prompt?"),
    ],
)
def test_wrong_settings_are_refused(default_settings, changes, message):
    with pytest.raises(UserError) as error:
        ColorSettings.from_dict(default_settings | changes)
    assert message in str(error.value)


def test_settings_that_are_left_out_are_those_of_the_authors():
    settings = ColorSettings.from_dict({})
    assert (settings.stage_1, settings.stage_2) == ("DeepFloyd/IF-I-M-v1.0", "DeepFloyd/IF-II-M-v1.0")
    assert (settings.num_steps, settings.guidance_scale, settings.start_step) == (30, 10.0, 7)
    assert (settings.noise_level, settings.trials) == (50, 16)


def test_without_a_latent_model_the_sample_is_colorized_by_its_own(for_first_trial):
    assert for_first_trial(method="latent", latent_model="")["latent_model"] == "tiny/image"
    assert for_first_trial(method="latent", latent_model="x")["latent_model"] == "x"


def test_the_noise_level_does_not_count_without_a_second_stage(for_first_trial):
    assert for_first_trial(stage_2="", noise_level=60) == for_first_trial(stage_2="", noise_level=50)
    assert for_first_trial(stage_2="x", noise_level=60) != for_first_trial(stage_2="x", noise_level=50)


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("a painting of castle towers, grayscale", "castle towers"),
        ("a painting of corgis, grayscale, black background", "corgis"),
        ("a castle with bell towers, grayscale, lithograph style", "a castle with bell towers"),
        ("a pencil drawing of two dogs", "two dogs"),
        ("trees", "trees"),
    ],
)
def test_the_subject_is_the_prompt_without_its_style(prompt, expected):
    assert subject(prompt) == expected
