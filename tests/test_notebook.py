"""`its_jax.notebook`, the functions that the notebooks of colab/ call."""

import pathlib
import re
import sys
import types
import zipfile

import pytest

from its_jax import notebook
from its_jax.errors import UserError
from its_jax.evaluate import score_cache
from its_jax.runtime import hardware
from its_jax.storage import samples
from tests.helpers import finished_samples as finished

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [("gpu", "7.5", "float16"), ("gpu", "8.0", "bfloat16"), ("gpu", "12.0", "bfloat16"), ("tpu", "", "bfloat16"),
     ("cpu", "", "float32")],
)  # fmt: skip
def test_the_dtype_follows_the_accelerator(platform, capability, expected):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    assert hardware.suitable_dtype(device) == expected


def test_a_dtype_that_is_named_is_taken(capsys):
    assert notebook.dtype("float16") == "float16"
    assert capsys.readouterr().out == "dtype: float16 (cpu)\n"


def test_the_best_samples_come_best_first(tmp_path):
    records = [finished.record({"seed": seed}, {"clip": seed, "clap": -abs(seed - 3)}) for seed in range(5)]
    finished.write(tmp_path, records)
    seeds = [found.record["seed"] for found in notebook.best_samples(tmp_path, "clip, clap", share=0.6)]
    assert seeds == [3, 4, 2]
    assert len(notebook.best_samples(tmp_path, "")) == 5


def test_the_old_name_of_best_samples_works_with_a_warning():
    with pytest.warns(DeprecationWarning, match="its_jax.notebook.chosen is deprecated"):
        assert notebook.chosen is notebook.best_samples


@pytest.mark.parametrize("prompts, count", [("a cat, gray; a dog;", 2), (["a; b"], 1)])
def test_a_text_of_prompts_is_split_at_semicolons(prompts, count, tmp_path, caplog):
    config, settings = str(ROOT / "configs/default.py"), {"batch_size": 1}
    grid = {"image_prompts": prompts, "audio_prompts": "rain", "seeds": "0"}
    with caplog.at_level("INFO"):
        notebook.sweep(config, tmp_path / "out", **grid, settings=settings, plan_only=True)
    assert f"{count} samples, 0 of them finished" in caplog.text


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        ("configs/nowhere.py", {}, "config configs/nowhere.py: neither a file nor a shipped config; shipped"),
        ("", {}, "neither a file nor a shipped config"),
        ("configs", {}, "config configs: neither a file nor a shipped config"),
        ("README.md", {}, "README.md: "),
        (str(ROOT / "its_jax/errors.py"), {}, "errors.py: must have a function get_config that returns a ConfigDict"),
        ("configs/default.py", {"num_step": 3}, "num_step=3: there is no setting num_step; did you mean num_steps?"),
        ("configs/default.py", {"num_steps": "many"}, "num_steps='many': "),
        ("configs/sd15_auffusion.py:lion", {}, "has no example 'lion'"),
    ],
)
def test_a_wrong_config_or_setting_is_one_line(config, settings, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Configs are found from any folder.
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        notebook.sample(config, tmp_path, settings)
    (line,) = caught.value._render_traceback_()
    assert line == f"error: {caught.value}" and len(line.splitlines()) == 1 and len(line) < 300


@pytest.mark.parametrize("setting", ["seed", "num_samples", "image.prompt"])
def test_settings_that_are_arguments_of_a_sweep_are_refused(setting, tmp_path):
    with pytest.raises(UserError, match=f"settings: remove {setting}, and use the argument (seeds|image_prompts)"):
        notebook.sweep(
            str(ROOT / "configs/default.py"),
            tmp_path / "made",
            image_prompts="a",
            audio_prompts="b",
            seeds="0",
            settings={setting: 3},
        )
    assert not (tmp_path / "made").exists()


def test_a_folder_on_the_drive_needs_colab_and_permission(monkeypatch):
    with pytest.raises(UserError, match="only Colab has a Drive"):
        notebook.workdir("made", on_drive=True)
    drive = types.SimpleNamespace(mount=lambda place: None)
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(drive=drive))
    assert notebook.workdir("made", on_drive=True) == pathlib.Path("/content/drive/MyDrive/made")
    with pytest.raises(UserError, match="/images: on the Drive, give a folder in it"):
        notebook.workdir("/images", on_drive=True)
    drive.mount = lambda place: (_ for _ in ()).throw(ValueError("mount failed"))
    with pytest.raises(UserError, match=re.escape("the Drive cannot be mounted (mount failed)")):
        notebook.workdir("made", on_drive=True)


def test_scores_that_were_measured_later_take_precedence(tmp_path, caplog):
    finished.write(tmp_path, [finished.record({"seed": 0}, {"clip": 1.0}), finished.record({"seed": 1})])
    assert [found.record["seed"] for found in notebook.best_samples(tmp_path, "clip", share=1)] == [0]
    assert "1 of 2 samples have no clip, and are left out" in caplog.text
    writer = score_cache.Writer(tmp_path, "0-of-1")
    made = samples.open_samples(tmp_path)
    for found in made.values():
        writer.add(
            score_cache.key(found, "clip", "a model"), score_cache.CachedScore({"clip": 2.0 + found.record["seed"]}, {})
        )
    writer.add(score_cache.Key("gone", "", "clip", "a model"), score_cache.CachedScore({"clip": 9.0}, {}))
    writer.close()
    assert [found.record["seed"] for found in notebook.best_samples(tmp_path, "clip", share=1)] == [1, 0]
    # As in the tables of `its_jax.evaluate`, later scores take precedence, because scores of two models would mix.
    scores = score_cache.scores(tmp_path, made)
    assert {made[name].record["seed"]: row["clip"] for name, row in scores.items()} == {0: 2.0, 1: 3.0}


def test_a_video_that_cannot_be_encoded_is_left_out(tmp_path, monkeypatch, caplog):
    finished.write(tmp_path / "made", [finished.record()], "shards")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with zipfile.ZipFile(notebook.export(tmp_path / "made", tmp_path / "all.zip", by="")) as file:
        names = {name.rpartition("/")[2] for name in file.namelist()}
    assert names == {"image.png", "spectrogram.png", "audio.flac", "sample.json"}
    assert "without a video" in caplog.text
