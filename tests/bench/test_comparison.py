"""The table of methods that `bench.quality.comparison` makes from finished samples."""

import json

import numpy as np
import pytest

from bench.quality import comparison
from its_jax.errors import UserError
from its_jax.media import images
from its_jax.media import sounds as media_sounds
from its_jax.storage import writers
from its_jax.storage.files import json_bytes
from its_jax.tiny.data import items, pictures, sounds
from tests.helpers import bench_command
from tests.helpers import finished_samples as finished

PROMPTS = {"dog": "a painting of dogs, grayscale", "castle": "a painting of castle towers, grayscale"}


def draw(subject):
    return np.clip(pictures.draw(subject, items.generator("picture", "held_out", 1)), 0, 1)


def write(workdir, samples):
    """Writes samples of (method, requested and drawn subject, seed, CLIP and CLAP score) with a bell's sound."""
    writer = writers.open_writer("folders", workdir)
    bell = sounds.synthesize("bell", items.generator("sound", "held_out", 1))
    for method, requested, subject, seed, clip, clap in samples:
        changes = {"method": method, "seed": seed, "image.prompt": PROMPTS[requested], "audio.prompt": "bell ringing"}
        record = finished.record(changes, {"clip": clip, "clap": clap})
        content = {
            "spectrogram.png": images.png(draw(subject), record),
            writer.audio_file: media_sounds.wav(bell, finished.RATE, record),
            "sample.json": json_bytes(record),
        }
        writer.add(record["id"], content.items())
    writer.close()


def test_table_contains_scores_and_verdicts_of_each_method(tmp_path, capsys):
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
    files = {"out": tmp_path / "table.json", "picture": tmp_path / "a.png", "plot": tmp_path / "b.png"}
    comparison.make_table(str(tmp_path / "work"), **{name: str(path) for name, path in files.items()})
    ours, imprint = (json.loads(files["out"].read_text())["methods"][m] for m in ("fused", "imprint"))
    assert (ours["n"], ours["both"], ours["picture"], ours["sound"]) == (3, 0.667, 0.667, 1.0)
    assert ours["together"][0] == 100 and ours["fused_more"] == [0, 0]
    assert (imprint["n"], imprint["both"], imprint["in_pairs"]) == (2, 0, 2) and imprint["interval"][0] == 0
    assert imprint["fused_more"] == [20, 0]  # 110 - 90 and 100 - 80; the third fused sample has no partner
    assert "| imprint | 2 | 15.0 ± 63.5 | 70.0 ± 0.0 |" in capsys.readouterr().out
    assert images.read_image(files["picture"]).shape[0] > 2 * 128 and files["plot"].exists()


def test_samples_without_fused_ones_are_an_error(tmp_path, capsys):
    write(tmp_path / "work", [("imprint", "dog", "castle", 0, 20.0, 70.0)])
    files = f"--workdir={tmp_path / 'work'}", f"--out={tmp_path / 'a.json'}"
    assert bench_command.run("bench.quality.comparison", *files) == 2
    assert "has no sample of the method fused: use configs/comparison.py" in capsys.readouterr().err


def test_samples_without_scores_are_an_error(tmp_path):
    finished.write(tmp_path, [finished.record()])
    with pytest.raises(UserError, match="has no scores clip and clap"):
        comparison.read_samples(tmp_path)
