"""The sample command with small random models: its files, and what it generates again."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess

import imageio_ffmpeg
import jax
import numpy as np
import pytest
import soundfile

from its_jax import sample
from its_jax.errors import UserError
from its_jax.media import images, sounds
from its_jax.media.loudness import true_peak
from its_jax.pipeline import decoding
from its_jax.settings.records import recorded_settings
from its_jax.settings.schema import TERMS
from its_jax.storage import files
from its_jax.storage.files import read_json, write_json
from tests.helpers import model_folder
from tests.helpers.fixed_pipeline import NoPipeline
from tests.helpers.sample_files import FILES, assert_same_sample, folder_of, in_a_process, state_of
from tests.helpers.small import CONFIG, SMALL

pytestmark = pytest.mark.usefixtures("quick_programs")


def test_every_file_is_written_and_the_record_last(made):
    assert len(list(made.glob("*/"))) == 3 and (made / "gallery.html").exists()
    folder = folder_of(2, made)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    changed = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert changed.pop("sample.json") >= max(changed.values())
    assert sorted(path.name for path in folder_of(0, made).iterdir()) == FILES[:-1]


def test_files_hold_what_was_made_and_its_settings(made, expand, program):
    settings, folder = expand()[2], folder_of(2, made)
    (expected,) = program([settings], batch_index=0)
    picture, in_picture = images.read_png(folder / "image.png")
    spectrogram, in_spectrogram = images.read_png(folder / "spectrogram.png")
    waveform, rate, in_sound = sounds.read_wav(folder / "audio.wav")
    np.testing.assert_allclose(picture, expected.image, atol=0.5 / 255 + 1e-5)
    np.testing.assert_allclose(spectrogram, expected.spectrogram, atol=0.5 / 255 + 1e-5)
    np.testing.assert_allclose(waveform, expected.audio, atol=1 / 32768 + 1e-5)
    assert picture.shape == (12, 48, 3) and spectrogram.shape == (12, 48) and rate == 16000
    assert len(waveform) == 48 * model_folder.VOCODER["hop_size"]
    assert picture.std() > 0.01 and spectrogram.std() > 0.01 and waveform.std() > 1e-3
    record = read_json(folder / "sample.json")
    seconds = record.pop("seconds")
    assert in_picture == in_spectrogram == in_sound == record
    assert settings.to_dict().items() <= record.items()
    assert seconds.keys() == {"load", "compile", "encode", "denoise", "decode", "vocode", "write"}
    assert min(seconds.values()) > 0


def test_the_record_is_complete(made, program):
    record = read_json(folder_of(2, made) / "sample.json")
    assert record["id"] == folder_of(2, made).name
    assert record["models"] == program.components.identities
    assert {"jax", "jaxlib", "flax", "numpy", "its_jax"} <= record["versions"].keys()
    assert record["versions"]["jax"] == jax.__version__
    # It was the only one that was missing, on 8 devices: a batch of 2 is rounded up.
    expected = {"batch_size": 8, "position": 0, "video": True, "devices_per_sample": 1, "loudness": -16.0}
    (again,) = program([recorded_settings(record)])
    expected["latents_sha256"] = hashlib.sha256(again.latents.tobytes()).hexdigest()
    expected["gain_db"] = pytest.approx(-1 - true_peak(again.audio), abs=0.02)  # the sound lasts 0.06 s
    assert record["run"] == expected | {"platform": "cpu", "devices": 8}


def test_the_video_plays(made):
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    arguments = [ffmpeg, "-v", "error", "-i", folder_of(2, made) / "video.mp4", "-f", "null", "-"]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr


def test_the_audio_is_that_of_the_written_spectrogram(made, program):
    folder = folder_of(1, made)
    spectrogram, _ = images.read_png(folder / "spectrogram.png")
    again = decoding.vocode(program.components.vocoder, spectrogram[None], program.mel, "hifigan")[0]
    waveform = sounds.read_wav(folder / "audio.wav")[0]
    assert np.abs(again - waveform).max() < 1e-4  # 16 bits are 3e-5


def test_the_loudness_changes_only_the_scale_of_files(made, small, shared, tmp_path):
    """Neither ids nor latents change, and `--from` takes the loudness of the record."""
    before = folder_of(1, made)
    for loudness, source in ((None, {"loudness": None}), (-30.0, {"loudness": -30.0}), (None, None)):
        workdir = tmp_path / f"{loudness}{source is None}"
        if source:
            sample.run(small(source), workdir, shared)
        else:
            sample.run_again(folder_of(1, tmp_path / "NoneFalse") / "audio.wav", workdir, shared)
        after = folder_of(1, workdir)
        runs = [read_json(folder / "sample.json")["run"] for folder in (before, after)]
        assert after.name == before.name and runs[0]["latents_sha256"] == runs[1]["latents_sha256"]
        raw, played = sounds.read_wav(after / "audio.wav")[0], soundfile.read(after / "audio.wav")[0]
        np.testing.assert_array_equal(raw, sounds.read_wav(before / "audio.wav")[0])
        assert runs[1].get("loudness") == loudness and ("gain_db" in runs[1]) == (loudness is not None)
        if loudness is None:
            np.testing.assert_array_equal(raw, played)
        else:
            assert true_peak(played) == pytest.approx(-1, abs=0.02)


def test_crop_image_shortens_all_files(small, shared, tmp_path):
    sample.run(small(crop_image=True, num_samples=1), tmp_path, shared)
    (folder,) = tmp_path.glob("*/")
    assert images.read_png(folder / "image.png")[0].shape == (12, 16, 3)
    assert images.read_png(folder / "spectrogram.png")[0].shape == (12, 16)
    assert len(sounds.read_wav(folder / "audio.wav")[0]) == 960 - int(32 / 48 * 960)


def test_cutoff_latent_shortens_all_files(small, tmp_path):
    sample.run(small(cutoff_latent=True, num_samples=1), tmp_path)
    (folder,) = tmp_path.glob("*/")
    assert images.read_png(folder / "image.png")[0].shape == (12, 40, 3)
    assert images.read_png(folder / "spectrogram.png")[0].shape == (12, 40)
    assert len(sounds.read_wav(folder / "audio.wav")[0]) == 800


def test_a_second_run_makes_only_what_is_missing(made, small, shared, tmp_path, caplog):
    workdir = shutil.copytree(made, tmp_path / "out")
    before = state_of(workdir)
    shutil.rmtree(folder_of(0, workdir))
    (folder_of(1, workdir) / "sample.json").unlink()  # killed just before it was written
    (folder_of(2, workdir) / "video.mp4").unlink()  # not requested
    with caplog.at_level("INFO"):
        sample.run(small(), workdir, shared)
    assert "1 of 3 samples are in" in caplog.text
    after = state_of(workdir)
    assert after.keys() | {folder_of(2, workdir) / "video.mp4"} == before.keys()
    assert {path for path in after if after[path] == before[path]} == set(folder_of(2, workdir).iterdir())
    for seed in range(3):
        assert_same_sample(folder_of(seed, workdir), folder_of(seed, made))
    sample.run(small(), workdir, NoPipeline())
    assert state_of(workdir) == after


def test_a_finished_run_loads_nothing(made, small):
    sample.run(small(), made, NoPipeline())


def test_a_run_that_was_interrupted_goes_on(small, command, shared, made, tmp_path, monkeypatch):
    write = files.write
    flags = [f"--config.{key}={value}" for key, value in small().items() if key in SMALL]
    flags += [f"--config.{term}.{key}={small()[term][key]}" for term in TERMS for key in ("model", "start_step")]

    def interrupted(path, data):
        if path.name == "audio.wav" and "_1_" in path.parent.name:
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", interrupted)
        status, lines = command(f"--config={CONFIG}", f"--workdir={tmp_path}", *flags, pipeline=shared)
    assert status == 2 and "error: interrupted" in lines[-1]
    assert sorted(path.name for path in folder_of(1, tmp_path).iterdir()) == ["image.png", "spectrogram.png"]
    whole = state_of(folder_of(0, tmp_path))
    status, _ = command(f"--config={CONFIG}", f"--workdir={tmp_path}", *flags, pipeline=shared)
    assert status == 0
    assert state_of(folder_of(0, tmp_path)) == whole
    for seed in range(3):
        assert_same_sample(folder_of(seed, tmp_path), folder_of(seed, made))


@pytest.mark.parametrize("name", ["image.png", "spectrogram.png", "audio.wav", "sample.json"])
def test_any_file_makes_its_sample_again(name, made, command, shared, tmp_path, caplog):
    file = shutil.copy(folder_of(1, made) / name, tmp_path)  # alone
    status, _ = command(f"--from={file}", f"--workdir={tmp_path / 'again'}", pipeline=shared)
    assert status == 0 and not [record for record in caplog.records if record.levelname == "WARNING"]
    (folder,) = (tmp_path / "again").iterdir()
    assert folder.name == folder_of(1, made).name
    assert_same_sample(folder, folder_of(1, made))
    runs = [read_json(f / "sample.json")["run"] for f in (folder, folder_of(1, made))]
    assert runs[0] == runs[1]


def test_a_changed_model_or_version_is_warned_about(made, shared, tmp_path, caplog):
    record = read_json(folder_of(1, made) / "sample.json")
    record["models"]["audio"], record["versions"]["jax"] = "0123456789ab", "0.1"
    write_json(tmp_path / "sample.json", record)
    sample.run_again(tmp_path / "sample.json", tmp_path / "again", shared)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [re.match(r"\S+ was \S+", line)[0] for line in warnings] == [
        "models.audio was 0123456789ab",
        "versions.jax was 0.1",
    ]


def test_a_sample_of_another_machine_is_not_made_in_its_batch(made, shared, tmp_path, caplog):
    record = read_json(folder_of(1, made) / "sample.json")
    record["run"] |= {"platform": "tpu", "devices": 64, "batch_size": 4096, "position": 4000}
    write_json(tmp_path / "sample.json", record)
    sample.run_again(tmp_path / "sample.json", tmp_path / "again", shared)
    assert [request["batch_size"] for request in shared.requests] == [0]
    again = read_json(folder_of(1, tmp_path / "again") / "sample.json")
    assert again["run"]["position"] == 0 and again["run"]["platform"] == "cpu"
    assert "run.platform was tpu and is cpu" in caplog.text


def test_a_sample_that_is_made_anew_is_not_done_until_it_is_whole(made, small, shared, tmp_path, monkeypatch):
    workdir = shutil.copytree(made, tmp_path / "out")
    folder = folder_of(1, workdir)
    (folder / "image.png").unlink()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sounds, "wav", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample.run(small(), workdir, shared)
    assert (folder / "image.png").exists() and not (folder / "sample.json").exists()


def test_another_process_makes_the_same_bits(made, tmp_path):
    arguments = [f"--from={folder_of(1, made) / 'image.png'}", f"--workdir={tmp_path / 'again'}"]
    result = in_a_process(*arguments)
    assert result.returncode == 0, result.stderr
    for stage in ("load", "compile", "encode", "denoise", "decode", "vocode", "write"):
        assert re.search(rf"{stage} +\d+\.\d\d s", result.stdout)
    assert "step/s" in result.stderr  # the progress bar
    assert_same_sample(folder_of(1, tmp_path / "again"), folder_of(1, made))


def test_a_full_disk_leaves_what_is_complete_and_the_rest_can_be_made(small, shared, made, tmp_path, monkeypatch):
    synchronise, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) > 9:  # of 12 files, which two threads write
            raise OSError(errno.ENOSPC, "No space left on device")
        synchronise(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="cannot write: No space left on device"):
            sample.run(small(), tmp_path, shared)
    complete = {path.parent for path in tmp_path.glob("*/sample.json")}
    assert 1 <= len(complete) < 3
    assert not list(tmp_path.rglob(".*"))  # of a file that was not finished
    assert all(any(folder.iterdir()) for folder in tmp_path.iterdir())
    before = [state_of(folder) for folder in complete]
    sample.run(small(), tmp_path, shared)
    assert [state_of(folder) for folder in complete] == before
    for seed in range(3):
        assert_same_sample(folder_of(seed, tmp_path), folder_of(seed, made))


def test_the_shell_sets_any_prompt(command, shared, models, tmp_path):
    prompt = 'a "cat", 一座城堡 🐶 it\'s / \\'
    settings = SMALL | models | {"image.prompt": prompt, "num_samples": 1}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    status, _ = command(f"--config={CONFIG}", f"--workdir={tmp_path}", *flags, pipeline=shared)
    assert status == 0
    (record,) = tmp_path.glob("*/sample.json")
    assert json.loads(record.read_text())["image"]["prompt"] == prompt
