"""The colored images of the program."""

import numpy as np
import pytest

from its_jax.errors import UserError
from its_jax.tiny.data import colors, items, pictures


@pytest.mark.parametrize("subject", items.SUBJECTS)
def test_a_colored_image_keeps_its_gray_and_has_the_usual_colors(subject):
    for seed in range(3):
        gray, tints = colors.draw(subject, np.random.default_rng(seed))
        np.testing.assert_array_equal(gray, pictures.draw(subject, np.random.default_rng(seed)))
        image = colors.apply_tints(gray, tints)
        assert image.min() >= 0 and image.max() <= 1
        np.testing.assert_allclose(image.mean(axis=-1), gray, atol=1e-5)
        assert colors.dominant_hue(image) in colors.usual_hues(subject)


def test_shades_of_a_color_have_the_same_dominant_hue():
    gray = np.full((4, 4), 0.4)
    for name, hue in {"red": "red", "brown": "orange", "sand": "orange", "blue": "blue", "gray": "gray"}.items():
        tints = np.tile(np.float32(colors.COLORS[name]) / 255, (4, 4, 1))
        assert colors.dominant_hue(colors.apply_tints(gray, tints)) == hue


def test_usual_hues_are_those_of_the_large_parts():
    assert colors.usual_hues("train") == {"red", "green", "blue"} and colors.usual_hues("elephant") == {"gray"}


def test_an_unknown_subject_raises_an_error_that_names_the_known_ones():
    with pytest.raises(UserError, match="unknown subject 'cat': choose one of castle"):
        pictures.draw_with_tints("cat", np.random.default_rng(0), {})
