"""The image and the sound of a video, as ffmpeg decodes them."""

import io
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from its_jax.errors import UserError
from its_jax.media import text_layout, videos
from tests.helpers.prompts import PROMPTS


def ffmpeg(*arguments):
    return subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *arguments], capture_output=True, check=True)


def probe(path, stream):
    """Decodes one stream. Returns ffmpeg's report and the stream's end in seconds."""
    report = ffmpeg("-i", path, "-map", f"0:{stream}", "-f", "null", "-").stderr.decode()
    hours, minutes, seconds = re.findall(r"time=(\d+):(\d+):([\d.]+)", report)[-1]
    return report, int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def frame(path, index):
    select = ("-vf", f"select=eq(n\\,{index})", "-frames:v", "1")
    png = ffmpeg("-i", path, *select, "-f", "image2pipe", "-c:v", "png", "-").stdout
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.float32)


def test_a_video_contains_its_image_sound_and_moving_playhead(tmp_path):
    path = tmp_path / "a.mp4"
    gray = np.random.default_rng(0).uniform(0.2, 0.6)
    duration, fps, sampling_rate = 1.23, 30, 16000
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(duration * sampling_rate)) / sampling_rate)
    videos.write_video(path, np.full((64, 256), gray), tone, sampling_rate, PROMPTS[1], PROMPTS[3], fps)

    report, end = probe(path, "v")
    assert re.search(r"h264 .*yuv420p.*, 1094x\d*[02468][ ,].*30 fps", report)
    assert int(re.findall(r"frame= *(\d+)", report)[-1]) == round(duration * fps)
    assert abs(end - duration) <= 0.5 / fps + 0.01
    report, end = probe(path, "a")
    assert re.search(r"aac .*16000 Hz, mono", report)
    assert abs(end - duration) <= 0.064  # A packet of AAC is 1024 samples.
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")  # It plays before it is complete.

    _, (left, top, width, height) = text_layout.video_frame(Image.new("L", (256, 64)), PROMPTS[1], PROMPTS[3])
    assert (width, height) == (1024, 256)
    for index in (0, 18, 36):
        columns = frame(path, index)[top : top + height, left : left + width].mean(axis=0)
        amber = np.flatnonzero(columns[:, 0] - columns[:, 2] > 80)
        assert abs(amber.mean() - width * index / fps / duration) <= 1.5
        rest = np.delete(columns, np.arange(max(0, amber[0] - 8), amber[-1] + 9), axis=0)
        np.testing.assert_allclose(rest, 255 * gray, atol=6)  # the trace of the playhead

    decoded = np.frombuffer(ffmpeg("-i", path, "-f", "s16le", "-").stdout, np.int16)
    assert abs(np.abs(np.fft.rfft(decoded)).argmax() / len(decoded) * sampling_rate - 440) < 1


def test_a_failing_ffmpeg_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match="a.mp4: cannot write: ffmpeg: "):
        videos.write_video(tmp_path / "a.mp4", np.zeros((8, 8)), np.zeros(1600), 16000, "a", "b", fps=-1)
    assert not list(tmp_path.iterdir())
