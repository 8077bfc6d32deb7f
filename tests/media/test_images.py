"""PNG files: their values, and contact sheets."""

import numpy as np
import pytest

from its_jax.errors import UserError
from its_jax.media import images


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
def test_png_rounds_to_8_bits_and_clips(tmp_path, shape):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, shape)
    nudged = (levels + rng.uniform(-0.49, 0.49, shape)) / 255
    images.write_png(tmp_path / "a.png", nudged, {})
    image, _ = images.read_png(tmp_path / "a.png")
    np.testing.assert_array_equal(image, levels.astype(np.float32) / 255)
    images.write_png(tmp_path / "b.png", 3 * nudged - 1, {})
    image, _ = images.read_png(tmp_path / "b.png")
    assert image.min() == 0 and image.max() == 1


def test_writing_the_image_that_was_read_gives_the_same_bytes(tmp_path):
    images.write_png(tmp_path / "a.png", np.random.default_rng(0).uniform(0, 1, (8, 8)), {"seed": 1})
    images.write_png(tmp_path / "b.png", *images.read_png(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_damaged_png_is_named_in_the_error(tmp_path):
    path = tmp_path / "a.png"
    images.write_png(path, np.zeros((8, 8)), {})
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=f"^{path}: "):
        images.read_png(path)


def test_contact_sheet_shows_every_image_in_its_cell():
    grays = np.linspace(0.3, 0.9, 5)
    tiles = [np.full((20, 80, 3) if i % 2 else (20, 80), gray) for i, gray in enumerate(grays)]
    sheet = images.contact_sheet(tiles, ["castle\nbell", "x" * 300, "", "🐶", "a"], columns=3)
    assert sheet.ndim == 3 and 0 <= sheet.min() and sheet.max() <= 1
    corners = []
    for gray in grays:
        rows, columns = np.nonzero(abs(sheet - np.rint(gray * 255) / 255).max(axis=-1) < 1e-6)
        block = sheet[rows.min() : rows.min() + 20, columns.min() : columns.min() + 80]
        np.testing.assert_allclose(block, gray, atol=0.5 / 255 + 1e-6)
        corners.append((rows.min(), columns.min()))
    assert corners == sorted(corners) and len({row for row, _ in corners}) == 2
    assert corners[0][1] == corners[3][1] and corners[1][1] == corners[4][1]
