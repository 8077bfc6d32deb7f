"""The table of colors that `bench.quality.colors` makes from colorized images."""

import json

import numpy as np
import pytest

from bench.quality import colors as bench_colors
from its_jax.colorize import outputs
from its_jax.errors import UserError
from its_jax.media import images
from its_jax.storage import samples
from its_jax.tiny.data import colors
from tests.helpers import finished_samples as finished

GRAY = np.full((16, 48), 100, np.uint8)


def write_colorized(workdir, subject, seed, hues):
    """Writes a sample of a subject with an image of a hue by each method; None is one whose gray is 3 levels off."""
    record = finished.record({"image.prompt": f"a painting of {subject}, grayscale", "seed": seed})
    (made,) = finished.write(workdir, [record])
    sample = samples.open_samples(workdir)[made]
    images.write_png(sample.path / "spectrogram.png", GRAY / 255, record)
    for number, (method, hue) in enumerate(hues.items()):
        tint = np.tile(np.float32(colors.COLORS[hue or "orange"]), (*GRAY.shape, 1))
        image = colors.apply_tints(GRAY / 255, tint) + (0 if hue else 3 / 255)
        settings = {"method": method, "prompt": f"a photo of {subject}"}
        outputs.write(outputs.ColorTask(sample, settings, GRAY, f"color_{number:02d}", False), image, {})


def test_table_counts_usual_colors_chance_and_gray(tmp_path, capsys):
    work = tmp_path / "work"
    write_colorized(work, "tigers", 0, {"factorized": "orange", "latent": "gray"})
    write_colorized(work, "tigers", 1, {"factorized": "blue", "latent": "gray"})
    write_colorized(work, "elephants", 0, {"factorized": "gray", "latent": "gray"})
    write_colorized(work, "trains", 0, {"factorized": "blue", "latent": None})
    bench_colors.make_table(str(work), out=f"{tmp_path}/table.json", picture=str(tmp_path / "shown.png"))
    table = json.loads((tmp_path / "table.json").read_text())["methods"]
    factorized, latent = table["factorized"], table["latent"]
    tigers, trains = (factorized["subjects"][name] for name in ("tiger", "train"))
    assert tigers["found"] == {"orange": 1, "blue": 1} and tigers["hues"] == ["orange"]
    assert [tigers[name] for name in ("n", "usual", "chance", "gray")] == [2, 0.5, 0.0, 0.0]
    assert (trains["usual"], trains["chance"], trains["hues"]) == (1.0, 0.333, ["blue", "green", "red"])
    assert (factorized["n"], factorized["usual"], factorized["gray"]) == (4, 0.75, 0.25)
    assert factorized["gray_off"] <= 1 and 2 <= latent["gray_off"] <= 4
    assert (latent["usual"], latent["gray"]) == (0.25, 0.75)
    assert "| tiger | orange | 50% | 0% | 0% | 50% |" in capsys.readouterr().out
    shown = images.read_image(tmp_path / "shown.png")
    assert shown.shape[0] > 3 * GRAY.shape[0] and shown.shape[1] > 3 * GRAY.shape[1]


@pytest.mark.parametrize(
    "folder, message",
    [
        ("plain", "has no colorized images; generate them with python -m its_jax.colorize"),
        ("other", "'a painting of teapots, grayscale' names none of castle, dog"),
        ("missing", "no such folder"),
    ],
)
def test_folders_without_usable_images_are_errors(tmp_path, folder, message):
    finished.write(tmp_path / "plain", [finished.record()])
    write_colorized(tmp_path / "other", "teapots", 0, {"latent": "red"})
    with pytest.raises(UserError, match=message):
        bench_colors.make_table(str(tmp_path / folder), out=str(tmp_path / "table.json"))
