"""A sample's sound has its gain wherever it is played, and its raw scale wherever it is measured."""

import base64
import subprocess
import zipfile

import imageio_ffmpeg
import numpy as np
import pytest

from its_jax import gallery, notebook
from its_jax.colorize import outputs
from its_jax.errors import UserError
from its_jax.evaluate import measures
from its_jax.gallery import assets
from its_jax.media import sounds
from its_jax.scoring.clip_clap import ClapScorer
from its_jax.storage import samples
from its_jax.tiny.data import items
from its_jax.tiny.data.sounds import synthesize
from its_jax.versus import study
from its_jax.video import write_video
from tests.helpers import finished_samples as finished

RAW = 0.2  # the amplitude of the tone of `finished_samples`
LEVELS = {None: RAW, 0.0: RAW, 12.0: RAW * 10**0.6, -9.0: RAW * 10**-0.45}  # gain -> amplitude in files
GAIN = pytest.mark.parametrize("gain_db", LEVELS)


def level(path):
    """The amplitude of the tone in a sound or video, as a player decodes it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "f32le", "-ac", "1", "-"]
    decoded = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<f4")
    return 2**0.5 * decoded[2000:14000].std()  # without what AAC adds at both ends


@pytest.fixture(params=["folders", "shards"])
def made(request, gain_db, tmp_path):
    """A sample that was written at a gain."""
    (name,) = finished.write(tmp_path / "made", [finished.record(gain_db=gain_db)], request.param)
    return samples.open_sample(tmp_path / "made" / name)


@GAIN
def test_files_players_and_videos_have_the_gain(made, gain_db, tmp_path):
    workdir, expected = tmp_path / "made", pytest.approx(LEVELS[gain_db], rel=0.02)
    file = tmp_path / made.audio_file
    file.write_bytes(made.read(made.audio_file))
    assert level(file) == expected
    assert level(write_video(workdir / made.id)) == expected
    samples.colorings_folder(made).mkdir(parents=True, exist_ok=True)
    outputs.write_video(made, "color_00", np.zeros((16, 48, 3)), {"colorize": {"prompt": "a"}, "run": {"position": 0}})
    assert level(samples.video_path(made, "color_00")) == expected
    gallery.write(workdir)
    assert level(workdir / assets.folder_name(made) / "audio.wav") == expected
    (url,) = (url for url in assets.data_urls([made], 2**20)[0].values() if url.startswith("data:audio/wav"))
    (tmp_path / "url.wav").write_bytes(base64.b64decode(url.partition(",")[2]))
    assert level(tmp_path / "url.wav") == expected


@GAIN
def test_notebooks_play_and_export_the_gain(made, gain_db, tmp_path):
    page = notebook.best(tmp_path / "made", by="").data
    (tmp_path / "player.wav").write_bytes(
        base64.b64decode(page.partition("data:audio/wav;base64,")[2].partition('"')[0])
    )
    with zipfile.ZipFile(notebook.export(tmp_path / "made", tmp_path / "all.zip", by="")) as packed:
        packed.extractall(tmp_path)
    for path in (tmp_path / "player.wav", tmp_path / made.id / made.audio_file, tmp_path / made.id / "video.mp4"):
        assert level(path) == pytest.approx(LEVELS[gain_db], rel=0.02), path


def test_a_blind_comparison_plays_each_sample_at_its_gain(tmp_path):
    for name, gain_db in (("old", None), ("new", 12.0)):
        finished.write(tmp_path / name, [finished.record(gain_db=gain_db)])
    study.write([str(tmp_path / "old"), str(tmp_path / "new")], tmp_path / "page", pairs=1, seed=0)
    levels = sorted(level(path) for path in (tmp_path / "page" / "media").glob("*.wav"))
    assert levels == pytest.approx([LEVELS[None], LEVELS[12.0]], rel=0.01)


@GAIN
def test_what_measures_a_sample_reads_the_raw_scale(made, gain_db, tmp_path):
    """`sounds.read_audio` reads `init_audio`, and the references of FAD."""
    tone = RAW * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    file = tmp_path / made.audio_file
    file.write_bytes(made.read(made.audio_file))
    for waveform in (made.read_audio()[0], measures.read_item(made).waveform, sounds.read_audio(file, 16000)):
        np.testing.assert_array_equal(waveform, np.rint(tone * 2**15) / 2**15)


def test_the_clap_score_of_a_file_does_not_depend_on_its_gain(tmp_path):
    clap, scores = ClapScorer("tiny/clap"), []
    bell = RAW * synthesize("bell", items.generator("sound", "held_out", 1))
    for gain_db in LEVELS:
        sounds.write_wav(tmp_path / "a.wav", bell, finished.RATE, finished.record(gain_db=gain_db))
        scores.append(clap.score(*sounds.read_wav(tmp_path / "a.wav")[:2], "bell ringing"))
    assert scores[0] > 50 and scores == [scores[0]] * len(scores)


def test_a_record_with_a_damaged_gain_is_left_out(tmp_path, caplog):
    (name,) = finished.write(tmp_path, [finished.record()])
    path = tmp_path / name / "sample.json"
    path.write_text(path.read_text().replace('"batch_size"', '"gain_db": "loud", "batch_size"', 1))
    assert not samples.open_samples(tmp_path) and "run.gain_db='loud': must be a number" in caplog.text
    with pytest.raises(UserError, match="not a finished sample"):
        samples.open_sample(tmp_path / name)
