"""The metadata of files: settings, and the label that says that a model generated them."""

import json
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
from PIL import Image

from its_jax.errors import UserError
from its_jax.media import images, metadata, sounds, videos
from its_jax.media.embedded_settings import read_settings
from its_jax.storage.files import read_json, write_json
from tests.helpers.prompts import PROMPTS


def settings_of(prompt):
    return {
        "seed": 2**40,
        "num_steps": 50,
        "solver": "ddim",
        "width": 1024,
        "height": 256,
        "x": 0.1,
        "y": None,
        "audio": {"prompt": prompt[::-1], "negative_prompt": ""},
        "image": {"model": "a, b", "prompt": prompt, "guidance_scale": 10.0, "weight": [0.5, 1e-300]},
    }


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_every_kind_of_file_keeps_the_settings_exactly(tmp_path, prompt):
    settings = settings_of(prompt)
    images.write_png(tmp_path / "a.png", np.zeros((2, 2)), settings)
    sounds.write_wav(tmp_path / "a.wav", np.zeros(3), 16000, settings)
    write_json(tmp_path / "a.json", settings)
    for name in ("a.png", "a.wav", "a.json"):
        read = read_settings(tmp_path / name)
        assert read == settings and list(read) == list(settings), name
    assert images.read_png(tmp_path / "a.png")[1] == settings
    assert sounds.read_wav(tmp_path / "a.wav")[2] == settings
    assert read_json(tmp_path / "a.json") == settings


def test_other_programs_can_read_prompts_and_main_settings(tmp_path):
    settings = settings_of("城堡\ntowers")
    images.write_png(tmp_path / "a.png", np.zeros((2, 2)), settings)
    lines = Image.open(tmp_path / "a.png").text["parameters"].split("\n")
    assert lines == [
        "audio: srewot 堡城",
        "image: 城堡 towers",
        f"Steps: 50, Sampler: ddim, Seed: {2**40}, Size: 1024x256, CFG scale image: 10.0, "
        'Weight image: "[0.5, 1e-300]", Model image: "a, b"',
    ]
    sounds.write_wav(tmp_path / "a.wav", np.zeros(3), 16000, settings)
    with soundfile.SoundFile(tmp_path / "a.wav") as file:
        assert file.title == "srewot 堡城 | 城堡 towers" and json.loads(file.comment) == settings
    write_json(tmp_path / "a.json", settings)
    assert "城堡" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_file_without_settings_is_named_in_the_error(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "plain.png")
    with soundfile.SoundFile(tmp_path / "plain.wav", "w", 16000, 1) as file:
        file.comment = "recorded at home"
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "cut.json").write_text('{"seed": ')
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "text.wav").write_text("not a sound")
    (tmp_path / "song.mp3").write_text("")
    for path in [*tmp_path.iterdir(), *(tmp_path / f"missing.{suffix}" for suffix in ("png", "wav", "json"))]:
        with pytest.raises(UserError) as error:
            read_settings(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_files_are_labeled_as_generated_by_a_model(tmp_path):
    images.write_png(tmp_path / "a.png", np.zeros((2, 2)), {})
    with Image.open(tmp_path / "a.png") as image:
        assert metadata.SOURCE_TYPE in image.text[metadata.XMP_KEY]
    for encode in (sounds.wav, sounds.flac):
        assert metadata.SOFTWARE.encode() in encode(np.zeros(8), 16000, {})


def test_a_video_holds_its_settings_and_the_label(tmp_path):
    videos.write_video(tmp_path / "a.mp4", np.zeros((8, 8)), np.zeros(1600), 16000, "a", "b", settings={"seed": 7})
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "a.mp4")]
    report = subprocess.run(ffmpeg, capture_output=True, text=True).stderr
    assert 'comment         : {"seed": 7}' in report and metadata.SOFTWARE in report
    assert "title           : a | b" in report
