"""The table of the methods that `bench.comparison` makes of finished samples."""

import json
import sys

import numpy as np
import pytest

from bench import comparison
from its_jax.errors import UserError
from its_jax.media import images
from its_jax.media import sounds as media_sounds
from its_jax.storage import writers
from its_jax.storage.files import json_bytes
from its_jax.tiny.data import items, pictures, sounds
from tests.helpers import finished_samples as finished

PROMPTS = {"dog": "a painting of dogs, grayscale", "castle": "a painting of castle towers, grayscale"}


def drawn(subject):
    return np.clip(pictures.draw(subject, items.generator("picture", "held_out", 1)), 0, 1)


def write(workdir, samples):
    """Finished samples of (method, what is wanted, what is drawn, seed, CLIP's score, CLAP's); all sound as a bell."""
    kept = writers.open_writer("folders", workdir)
    bell = sounds.synthesize("bell", items.generator("sound", "held_out", 1))
    for method, wanted, subject, seed, clip, clap in samples:
        changes = {"method": method, "seed": seed, "image.prompt": PROMPTS[wanted], "audio.prompt": "bell ringing"}
        record = finished.record(changes, {"clip": clip, "clap": clap})
        content = {
            "spectrogram.png": images.png(drawn(subject), record),
            kept.audio_file: media_sounds.wav(bell, finished.RATE, record),
            "sample.json": json_bytes(record),
        }
        kept.add(record["id"], content.items())
    kept.close()


def test_scores_and_judges_of_each_method(tmp_path, monkeypatch, capsys):
    write(
        tmp_path / "work",
        [
            ("fused", "dog", "dog", 0, 50.0, 60.0),
            ("fused", "castle", "castle", 0, 40.0, 60.0),
            ("fused", "castle", "dog", 1, 20.0, 70.0),
            ("imprint", "dog", "castle", 0, 20.0, 70.0),
            ("imprint", "castle", "dog", 0, 10.0, 70.0),
        ],
    )
    argv = ["comparison", f"--workdir={tmp_path / 'work'}", f"--out={tmp_path / 'table.json'}"]
    monkeypatch.setattr(sys, "argv", [*argv, f"--picture={tmp_path / 'a.png'}", f"--plot={tmp_path / 'b.png'}"])
    comparison.main()
    ours, imprint = (json.loads((tmp_path / "table.json").read_text())["methods"][m] for m in ("fused", "imprint"))
    assert (ours["n"], ours["both"], ours["picture"], ours["sound"]) == (3, 0.667, 0.667, 1.0)
    assert ours["together"][0] == 100 and ours["fused_more"] == [0, 0]
    assert (imprint["n"], imprint["both"], imprint["in_pairs"]) == (2, 0, 2) and imprint["interval"][0] == 0
    assert imprint["fused_more"] == [20, 0]  # 110 - 90 and 100 - 80, of pairs; the third has no partner
    assert "| imprint | 2 | 15.0 ± 63.5 | 70.0 ± 0.0 |" in capsys.readouterr().out
    assert images.read_image(tmp_path / "a.png").shape[0] > 2 * 128 and (tmp_path / "b.png").exists()


def test_without_ours_there_is_nothing_to_compare_with(tmp_path, monkeypatch, capsys):
    write(tmp_path / "work", [("imprint", "dog", "castle", 0, 20.0, 70.0)])
    monkeypatch.setattr(sys, "argv", ["comparison", f"--workdir={tmp_path / 'work'}", f"--out={tmp_path / 'a.json'}"])
    with pytest.raises(SystemExit, match="2"):
        comparison.main()
    assert "has no sample by the method fused: make them with configs/comparison.py" in capsys.readouterr().err


def test_samples_without_scores_are_told(tmp_path):
    finished.write(tmp_path, [finished.record()])
    with pytest.raises(UserError, match="has no scores clip and clap"):
        comparison.of_methods(tmp_path)
