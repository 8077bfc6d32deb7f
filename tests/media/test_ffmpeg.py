"""Which ffmpeg runs: fake folders of programs stand for systems that have one, that lack encoders, or have none."""

import sys

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from its_jax.errors import UserError
from its_jax.media import sounds, videos
from its_jax.media.ffmpeg import find_ffmpeg, run_ffmpeg
from tests.helpers import finished_samples

# An ffmpeg that was built without x264, as some distributions ship it, and the message of such a build.
WITHOUT_X264 = """case "$*" in *libx264*) echo "Unknown encoder 'libx264'" >&2; exit 1;; esac"""


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Makes PATH a folder with an ffmpeg that runs these lines, and then imageio-ffmpeg's; None is an empty folder."""
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    shipped, folder = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(lines):
        if lines is None:
            return None
        program = folder / "ffmpeg"
        program.write_text(f'#!/bin/sh\n{lines}\nexec {shipped} "$@"\n')
        program.chmod(0o755)
        return str(program)

    return make


def write_video(path):
    videos.write_video(path, np.zeros((16, 64)), np.zeros(1600), 16000, "a", "b")


def test_videos_are_encoded_by_the_ffmpeg_of_the_system(system, tmp_path):
    program = system(f'echo "$@" >> {tmp_path}/log')
    assert find_ffmpeg() == program
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name)
        assert (tmp_path / name).read_bytes()[4:8] == b"ftyp"
    calls = (tmp_path / "log").read_text().splitlines()
    assert len(calls) == 3  # one for both videos finds out whether it can encode them
    assert ["playhead.png" in call for call in calls] == [False, True, True]


def test_an_ffmpeg_that_cannot_encode_videos_gives_way(system, tmp_path, caplog):
    program = system(WITHOUT_X264)
    write_video(tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"
    assert find_ffmpeg() == imageio_ffmpeg.get_ffmpeg_exe()
    (message,) = caplog.messages
    assert message.startswith(f"{program} cannot encode videos (ffmpeg: Unknown encoder 'libx264')")


def test_a_system_without_ffmpeg_uses_the_one_of_imageio(system):
    system(None)
    assert find_ffmpeg() == imageio_ffmpeg.get_ffmpeg_exe()


def test_the_environment_takes_precedence(system, monkeypatch):
    system("")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/mine/ffmpeg")
    assert find_ffmpeg() == "/mine/ffmpeg"


def test_imageio_ffmpeg_is_needed_only_without_one_of_the_system(system, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    program = system("")
    assert find_ffmpeg() == program
    (tmp_path / "bin" / "ffmpeg").unlink()
    with pytest.raises(UserError, match="no ffmpeg is found; set IMAGEIO_FFMPEG_EXE to one"):
        write_video(tmp_path / "a.mp4")


def test_ids_do_not_depend_on_the_ffmpeg(system, tmp_path):
    path = tmp_path / "a.m4a"
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16000) / 9), 16000)
    run_ffmpeg("-i", f"{tmp_path}/a.wav", str(path))

    def make():
        record = finished_samples.record({"init_audio": str(path), "strength": 0.5, "video": True})
        return record["id"], sounds.read_audio(path, 16000)

    identity, waveform = make()
    system("""case "$*" in *f32le*) printf '\\000\\000\\000\\077'; exit;; esac""")  # It hears 0.5 in every file.
    other_identity, other_waveform = make()
    assert len(waveform) > 15000 and other_waveform.tolist() == [0.5]
    assert other_identity == identity
