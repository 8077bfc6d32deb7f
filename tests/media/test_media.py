"""Round trips of files and settings, atomic writing, and what is seen and heard in a video."""

import errno
import io
import json
import os
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
from PIL import Image

from its_jax import video
from its_jax.errors import UserError
from its_jax.media import images, sounds, text_layout, videos
from its_jax.media.embedded_settings import read_settings
from its_jax.settings.records import VIDEO
from its_jax.storage import samples
from its_jax.storage.files import read_json, write_json
from tests.helpers import finished_samples as finished

PROMPTS = [
    "a castle",
    'say "hi" \\ it\'s 50%: [0:v]',
    "../up/and\\down;rm -rf",
    "one\ntwo\r\n\tthree\x00end",
    "dog 🐶 \U0001f469\u200d\U0001f680 \ufe0f♪",
    "一座城堡，钟声",
    "Ça c’été ß Ж عربى",
    "\udc80 lone surrogate",
    "very long " * 20000,
    "",
]


def settings_of(prompt: str) -> dict:
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


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
def test_png_keeps_8_bits_and_clips(tmp_path, rng, shape):
    levels = rng.integers(0, 256, shape)
    nudged = (levels + rng.uniform(-0.49, 0.49, shape)) / 255
    images.write_png(tmp_path / "a.png", nudged, {})
    picture, _ = images.read_png(tmp_path / "a.png")
    np.testing.assert_array_equal(picture, levels.astype(np.float32) / 255)
    images.write_png(tmp_path / "b.png", 3 * nudged - 1, {})
    picture, _ = images.read_png(tmp_path / "b.png")
    assert picture.min() == 0 and picture.max() == 1


def test_wav_keeps_16_bits_and_clips(tmp_path, rng):
    levels = rng.integers(-32768, 32768, 999)
    sounds.write_wav(tmp_path / "a.wav", (levels + rng.uniform(-0.4, 0.4, 999)) / 32768, 22050, {})
    waveform, sampling_rate, _ = sounds.read_wav(tmp_path / "a.wav")
    np.testing.assert_array_equal(waveform, levels.astype(np.float32) / 32768)
    assert sampling_rate == 22050 and soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    sounds.write_wav(tmp_path / "b.wav", np.array([-2.0, 2.0]), 16000, {})
    np.testing.assert_array_equal(sounds.read_wav(tmp_path / "b.wav")[0], np.float32([-1, 32767 / 32768]))


def test_writing_what_was_read_changes_nothing(tmp_path, rng):
    sounds.write_wav(tmp_path / "a.wav", rng.uniform(-1, 1, 500), 16000, {"seed": 1})
    sounds.write_wav(tmp_path / "b.wav", *sounds.read_wav(tmp_path / "a.wav"))
    images.write_png(tmp_path / "a.png", rng.uniform(0, 1, (8, 8)), {"seed": 1})
    images.write_png(tmp_path / "b.png", *images.read_png(tmp_path / "a.png"))
    for suffix in ("wav", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_every_file_keeps_the_settings_exactly(tmp_path, prompt):
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


def test_other_programs_can_read_the_metadata(tmp_path):
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


@pytest.mark.parametrize(
    "write",
    [
        lambda path, value: images.write_png(path, np.full((2, 2), value), {}),
        lambda path, value: sounds.write_wav(path, np.full(2, value), 16000, {}),
        lambda path, value: write_json(path, {"score": value}),
    ],
)
def test_non_finite_values_are_refused(tmp_path, write):
    with pytest.raises(ValueError):
        write(tmp_path / "a", np.nan)
    assert not list(tmp_path.iterdir())


def test_a_file_without_settings_is_named(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "plain.png")
    with soundfile.SoundFile(tmp_path / "plain.wav", "w", 16000, 1) as file:
        file.comment = "recorded at home"
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "cut.json").write_text('{"seed": ')
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "song.mp3").write_text("")
    for path in [*tmp_path.iterdir(), *(tmp_path / f"missing.{suffix}" for suffix in ("png", "wav", "json"))]:
        with pytest.raises(UserError) as error:
            read_settings(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


WRITERS = {
    "a.png": lambda path: images.write_png(path, np.zeros((8, 8)), {}),
    "a.wav": lambda path: sounds.write_wav(path, np.zeros(8), 16000, {}),
    "a.json": lambda path: write_json(path, {}),
    "a.mp4": lambda path: videos.write_video(path, np.zeros((8, 8)), np.zeros(1600), 16000, "a", "b"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name, call):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / name
    path.write_text("old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UserError, match=re.escape(f"{path}: cannot write: {os.strerror(errno.ENOSPC)}")):
        WRITERS[name](path)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_no_folder_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / name, tmp_path / "missing" / name):
        with pytest.raises(UserError, match=re.escape(f"{path}: cannot write: ")):
            WRITERS[name](path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name, read", [("a.png", images.read_png), ("a.wav", sounds.read_wav)])
def test_a_damaged_file_is_named(tmp_path, name, read):
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=re.escape(f"{path}: ")):
        read(path)


def test_an_interrupted_writer_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "a.json", {})
    assert not list(tmp_path.iterdir())


def test_a_failing_ffmpeg_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="a.mp4: cannot write: ffmpeg: "):
        videos.write_video(tmp_path / "a.mp4", np.zeros((8, 8)), np.zeros(1600), 16000, "a", "b", fps=-1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_a_finished_sample_gets_its_video_later(tmp_path, layout):
    one, other = finished.write(tmp_path, [finished.record({"seed": seed}) for seed in (1, 2)], layout)
    assert VIDEO not in samples.open_samples(tmp_path)[one].files
    path = video.run(f"{tmp_path}/{one}/")
    assert path == tmp_path / {"folders": f"{one}/video.mp4", "shards": f"videos/{one}.mp4"}[layout]
    assert re.search(r"h264 .*30 fps", probe(path, "v")[0])
    assert sorted(samples.open_samples(tmp_path)) == sorted([one, other])
    found = samples.open_sample(tmp_path / one)
    assert samples.video_path(found) == path and (VIDEO in found.files) == (layout == "folders")


def test_a_video_of_no_sample_is_refused_in_one_line(tmp_path):
    finished.write(tmp_path, [finished.record()])
    for place in (tmp_path / "nothing", tmp_path, tmp_path / "no" / "where", tmp_path / "*"):
        with pytest.raises(UserError, match=re.escape(f"{place}: there is no finished sample")):
            video.run(place)


def ffmpeg(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *arguments], capture_output=True, check=True)


def probe(path, stream: str) -> tuple[str, float]:
    """Decodes one stream -> what ffmpeg tells of the file, the stream's end in seconds."""
    told = ffmpeg("-i", path, "-map", f"0:{stream}", "-f", "null", "-").stderr.decode()
    hours, minutes, seconds = re.findall(r"time=(\d+):(\d+):([\d.]+)", told)[-1]
    return told, int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def frame(path, index: int) -> np.ndarray:
    select = ("-vf", f"select=eq(n\\,{index})", "-frames:v", "1")
    png = ffmpeg("-i", path, *select, "-f", "image2pipe", "-c:v", "png", "-").stdout
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.float32)


def test_a_video_shows_and_sounds_what_it_was_given(tmp_path, rng):
    path = tmp_path / "a.mp4"
    picture = rng.uniform(0.2, 0.6) * np.ones((64, 256))
    duration, fps, sampling_rate = 1.23, 30, 16000
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(duration * sampling_rate)) / sampling_rate)
    videos.write_video(path, picture, tone, sampling_rate, PROMPTS[1], PROMPTS[3], fps)

    told, end = probe(path, "v")
    assert re.search(r"h264 .*yuv420p.*, 1094x\d*[02468][ ,].*30 fps", told)
    assert int(re.findall(r"frame= *(\d+)", told)[-1]) == round(duration * fps)
    assert abs(end - duration) <= 0.5 / fps + 0.01
    told, end = probe(path, "a")
    assert re.search(r"aac .*16000 Hz, mono", told)
    assert abs(end - duration) <= 0.064  # a packet of AAC is 1024 samples
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")  # plays before it is all there

    _, (left, top, width, height) = text_layout.video_frame(Image.new("L", (256, 64)), PROMPTS[1], PROMPTS[3])
    assert (width, height) == (1024, 256)
    for index in (0, 18, 36):
        shown = frame(path, index)[top : top + height, left : left + width].mean(axis=0)
        amber = np.flatnonzero(shown[:, 0] - shown[:, 2] > 80)
        assert abs(amber.mean() - width * index / fps / duration) <= 1.5
        grey = np.delete(shown, np.arange(max(0, amber[0] - 8), amber[-1] + 9), axis=0)
        np.testing.assert_allclose(grey, 255 * picture[0, 0], atol=6)  # the playhead's trace

    heard = np.frombuffer(ffmpeg("-i", path, "-f", "s16le", "-").stdout, np.int16)
    assert abs(np.abs(np.fft.rfft(heard)).argmax() / len(heard) * sampling_rate - 440) < 1


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
@pytest.mark.parametrize("shape", [(7, 31), (64, 992), (8, 5000)])
def test_any_prompt_fits_on_the_slide(prompt, shape):
    image, (left, top, width, height) = text_layout.video_frame(Image.new("L", shape[::-1], 128), prompt, prompt)
    assert image.width % 2 == image.height % 2 == 0 and 992 <= width <= 3840
    assert left + width <= image.width and top + height <= image.height
    pixels = np.asarray(image)
    paper = pixels[0, 0]
    assert (pixels[:, : left - 2] == paper).all() and (pixels[:, left + width + 2 :] == paper).all()
    assert (pixels[[0, -1]] == paper).all()


def ink(prompt: str) -> np.ndarray:
    image, (left, top, _, _) = text_layout.video_frame(Image.new("L", (1024, 8)), prompt, "")
    return np.asarray(image.crop((left + 160, 0, image.width, top)))


@pytest.mark.parametrize("system_fonts", [(), ("DejaVuSans.ttf",)])
def test_characters_without_a_glyph_are_told_apart_or_boxed(monkeypatch, system_fonts):
    monkeypatch.setattr(text_layout, "_SYSTEM_FONTS", system_fonts)
    text_layout._fonts.cache_clear()
    try:
        assert (ink("城堡") != ink("")).any()
        assert (ink("🫠") != ink("")).any()
        if not system_fonts:
            np.testing.assert_array_equal(ink("é"), ink("e"))
            np.testing.assert_array_equal(ink("🐶"), ink("[dog face]"))
    finally:
        text_layout._fonts.cache_clear()


def test_long_text_is_wrapped_at_spaces_and_ends_in_an_ellipsis():
    text = "a painting of many small birds " * 20
    paragraph = text_layout._Paragraph(text, 20, 400, num_lines=2)
    first, second = paragraph.lines
    assert text.startswith(first + " ") and second.endswith("…")
    assert text.startswith(f"{first} {second[:-1]}")
    assert all(300 < paragraph.font.getlength(line) <= 400 for line in (first, second))
    assert text_layout._Paragraph("short", 20, 400, num_lines=2).lines == ["short"]


def test_contact_sheet_holds_every_picture_in_its_place():
    greys = np.linspace(0.3, 0.9, 5)
    pictures = [np.full((20, 80, 3) if i % 2 else (20, 80), grey) for i, grey in enumerate(greys)]
    sheet = images.contact_sheet(pictures, ["castle\nbell", "x" * 300, "", "🐶", "a"], columns=3)
    assert sheet.ndim == 3 and 0 <= sheet.min() and sheet.max() <= 1
    places = []
    for grey in greys:
        rows, columns = np.nonzero(abs(sheet - np.rint(grey * 255) / 255).max(axis=-1) < 1e-6)
        block = sheet[rows.min() : rows.min() + 20, columns.min() : columns.min() + 80]
        np.testing.assert_allclose(block, grey, atol=0.5 / 255 + 1e-6)
        places.append((rows.min(), columns.min()))
    assert places == sorted(places) and len({row for row, _ in places}) == 2
    assert places[0][1] == places[3][1] and places[1][1] == places[4][1]


@pytest.mark.parametrize("prompt", ["bell ringing", ""])
def test_flac_holds_the_values_of_wav_and_its_settings(prompt):
    waveform = np.random.default_rng(0).uniform(-1, 1, 500)
    settings = {"seed": 1, "audio": {"prompt": prompt}}
    (sound, rate), (other, _) = (
        soundfile.read(io.BytesIO(make(waveform, 16000, settings)), dtype="int16") for make in (sounds.flac, sounds.wav)
    )
    np.testing.assert_array_equal(sound, other)
    with soundfile.SoundFile(io.BytesIO(sounds.flac(waveform, 16000, settings))) as file:
        assert (rate, json.loads(file.comment), file.title) == (16000, settings, prompt)
