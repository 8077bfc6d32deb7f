"""The program that draws pictures: every subject stays within the bounds that the VAE and the sound need."""

import numpy as np
import pytest
from PIL import Image

from its_jax.errors import UserError
from its_jax.tiny.data.pictures import STYLES, SUBJECTS, caption, draw


def rng(seed):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_picture_shows_light_objects_on_black(subject, style):
    for seed in range(6):
        picture = draw(subject, rng(seed), style=style)
        assert picture.shape == (128, 512) and picture.dtype == np.float32
        assert np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1
        assert 0.1 <= picture.mean() <= 0.25
        assert (picture < 0.02).mean() > 0.3, "too few black gaps"
        assert picture.max() > 0.45, "too dim"


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_seed_alone_decides_the_picture(subject):
    first = draw(subject, rng(0))
    np.testing.assert_array_equal(first, draw(subject, rng(0)))
    assert np.abs(first - draw(subject, rng(1))).mean() > 0.05


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_crop_contains_an_object(subject):
    for seed in range(4):
        picture = draw(subject, rng(seed))
        assert min(picture[:, left : left + 256].mean() for left in (0, 128, 256)) > 0.05


@pytest.mark.parametrize("subject", SUBJECTS)
def test_features_survive_half_the_resolution(subject):
    picture = Image.fromarray(draw(subject, rng(2)))
    again = picture.resize((256, 64), Image.BICUBIC).resize((512, 128), Image.BICUBIC)
    error = np.asarray(picture) - np.asarray(again)
    assert -10 * np.log10(np.mean(error**2)) > 34


def test_pictures_can_have_other_sizes():
    assert draw("train", rng(0), height=64, width=256).shape == (64, 256)
    assert draw("train", rng(0), height=256, width=1024).shape == (256, 1024)


def test_filled_and_outline_style_differ():
    filled, outline = (draw("mushroom", rng(3), style=style) for style in STYLES)
    assert np.abs(filled - outline).mean() > 0.05


def test_captions_name_the_subject_in_lower_case_words():
    captions = {subject: {caption(subject, rng(seed)) for seed in range(60)} for subject in SUBJECTS}
    for subject, texts in captions.items():
        assert len(texts) >= 6
        assert all(text == text.lower() and any(noun in text for noun in SUBJECTS[subject]) for text in texts)
    words = {word for texts in captions.values() for text in texts for word in text.replace(",", "").split()}
    assert len(words) < 50


@pytest.mark.parametrize("make", [draw, caption])
def test_an_unknown_subject_raises_an_error_that_names_the_known_ones(make):
    with pytest.raises(UserError, match="unknown subject 'dragon'.*castle.*elephant"):
        make("dragon", rng(0))


def test_an_unknown_style_raises_an_error_that_names_the_known_ones():
    with pytest.raises(UserError, match="unknown style 'oil': choose one of filled, outline"):
        draw("dog", rng(0), style="oil")
