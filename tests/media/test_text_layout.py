"""Prompts in any script and of any length on the frame of a video."""

import numpy as np
import pytest
from PIL import Image

from its_jax.media import text_layout
from its_jax.media.text_layout import Paragraph
from tests.helpers.prompts import PROMPTS


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
@pytest.mark.parametrize("shape", [(7, 31), (64, 992), (8, 5000)])
def test_any_prompt_fits_on_the_frame_of_a_video(prompt, shape):
    image, (left, top, width, height) = text_layout.video_frame(Image.new("L", shape[::-1], 128), prompt, prompt)
    assert image.width % 2 == image.height % 2 == 0 and 992 <= width <= 3840
    assert left + width <= image.width and top + height <= image.height
    pixels = np.asarray(image)
    paper = pixels[0, 0]
    assert (pixels[:, : left - 2] == paper).all() and (pixels[:, left + width + 2 :] == paper).all()
    assert (pixels[[0, -1]] == paper).all()


@pytest.mark.parametrize("system_fonts", [(), ("DejaVuSans.ttf",)])
def test_characters_without_a_glyph_are_spelled_out_or_boxed(system_fonts):
    def ink(text):
        canvas = Image.new("L", (400, 40))
        Paragraph(text, 20, 400, system_fonts=system_fonts).draw(canvas, 0, 0, "white")
        return np.asarray(canvas)

    assert ink("城堡").any() and ink("🫠").any() and not ink("").any()
    if not system_fonts:
        np.testing.assert_array_equal(ink("é"), ink("e"))
        np.testing.assert_array_equal(ink("🐶"), ink("[dog face]"))


def test_long_text_is_wrapped_at_spaces_and_ends_in_an_ellipsis():
    text = "a painting of many small birds " * 20
    paragraph = Paragraph(text, 20, 400, num_lines=2)
    first, second = paragraph.lines
    assert text.startswith(first + " ") and second.endswith("…")
    assert text.startswith(f"{first} {second[:-1]}")
    assert all(300 < paragraph.font.getlength(line) <= 400 for line in (first, second))
    assert Paragraph("short", 20, 400, num_lines=2).lines == ["short"]
