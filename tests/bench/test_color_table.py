"""The table of the colours that `bench.colours` makes of coloured pictures."""

import json
import sys

import numpy as np
import pytest

from bench import colours as bench_colours
from its_jax.colorize import outputs
from its_jax.media import images
from its_jax.storage import samples
from its_jax.tiny.data import colors
from tests.helpers import finished_samples as finished

GREY = np.full((16, 48), 100, np.uint8)


def painted(workdir, subject, seed, hues):
    """A grey sample of a subject, coloured with a hue by each method; None: one whose grey is three levels off."""
    record = finished.record({"image.prompt": f"a painting of {subject}, grayscale", "seed": seed})
    (made,) = finished.write(workdir, [record])
    sample = samples.open_samples(workdir)[made]
    images.write_png(sample.path / "spectrogram.png", GREY / 255, record)
    for number, (method, hue) in enumerate(hues.items()):
        tint = np.tile(np.float32(colors.COLORS[hue or "orange"]), (*GREY.shape, 1))
        picture = colors.color_share(GREY / 255, tint) + (0 if hue else 3 / 255)
        settings = {"method": method, "prompt": f"a photo of {subject}"}
        outputs.write(outputs.ColorTask(sample, settings, GREY, f"color_{number:02d}", False), picture, {})


def run(monkeypatch, workdir, *more):
    monkeypatch.setattr(sys, "argv", ["colours", f"--workdir={workdir}", f"--out={workdir}.json", *more])
    bench_colours.main()
    return json.loads(workdir.with_suffix(".json").read_text())["methods"]


def test_pictures_have_their_subjects_colours_or_not(tmp_path, monkeypatch, capsys):
    work = tmp_path / "work"
    painted(work, "tigers", 0, {"factorized": "orange", "latent": "grey"})
    painted(work, "tigers", 1, {"factorized": "blue", "latent": "grey"})
    painted(work, "elephants", 0, {"factorized": "grey", "latent": "grey"})
    painted(work, "trains", 0, {"factorized": "blue", "latent": None})
    table = run(monkeypatch, work, f"--picture={tmp_path / 'shown.png'}")
    factorized, latent = table["factorized"], table["latent"]
    tigers, trains = (factorized["subjects"][name] for name in ("tiger", "train"))
    assert tigers["found"] == {"orange": 1, "blue": 1} and tigers["hues"] == ["orange"]
    assert [tigers[name] for name in ("n", "usual", "chance", "grey")] == [2, 0.5, 0.0, 0.0]
    assert (trains["usual"], trains["chance"], trains["hues"]) == (1.0, 0.333, ["blue", "green", "red"])
    assert (factorized["n"], factorized["usual"], factorized["grey"]) == (4, 0.75, 0.25)
    assert factorized["grey_off"] <= 1 and 2 <= latent["grey_off"] <= 4
    assert (latent["usual"], latent["grey"]) == (0.25, 0.75)
    assert "| tiger | orange | 50% | 0% | 0% | 50% |" in capsys.readouterr().out
    shown = images.read_image(tmp_path / "shown.png")
    assert shown.shape[0] > 3 * GREY.shape[0] and shown.shape[1] > 3 * GREY.shape[1]


def test_what_is_no_coloured_picture_is_told(tmp_path, monkeypatch, capsys):
    finished.write(tmp_path / "plain", [finished.record()])
    painted(tmp_path / "other", "teapots", 0, {"latent": "red"})
    for name, told in {
        "plain": "has no coloured pictures; make them with python -m its_jax.colorize",
        "other": "'a painting of teapots, grayscale' names none of castle, dog",
        "gone": "no such folder",
    }.items():
        with pytest.raises(SystemExit):
            run(monkeypatch, tmp_path / name)
        assert told in capsys.readouterr().err
