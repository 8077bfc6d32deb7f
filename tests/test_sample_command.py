"""The sample command with small random models: its files, what it generates again, and its error messages."""

import errno
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import imageio_ffmpeg
import jax
import numpy as np
import pytest
import safetensors.torch
import torch

from its_jax import Pipeline, pretrained, sample
from its_jax.errors import UserError
from its_jax.media import images, sounds
from its_jax.pipeline import decoding
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import read_settings
from its_jax.settings.records import recorded_settings
from its_jax.settings.schema import TERMS, RunOptions
from its_jax.storage import files
from its_jax.storage.files import read_json, write_json
from tests.helpers import model_folder
from tests.helpers.command import run_main
from tests.helpers.fixed_pipeline import FixedPipeline, NoPipeline
from tests.helpers.model_folder import edit, edit_json
from tests.helpers.small import CONFIG, SMALL

ROOT = pathlib.Path(__file__).parents[1]
FILES = ["audio.wav", "image.png", "sample.json", "spectrogram.png", "video.mp4"]
ALL_PROMPTS = (
    'say "hi" \\ it\'s 50%',
    "../up/and\\down;rm -rf",
    "one\ntwo\r\n\tthree",
    "dog 🐶",
    "一座城堡，钟声",
    "Ça ß عربى",
)


pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def expand(small):
    """Makes settings of samples, in the same way."""
    return lambda *change, **more: read_settings(small(*change, **more).to_dict())[0]


def options(batch_size=0):
    return RunOptions(num_samples=1, batch_size=batch_size, devices_per_sample=1, video=False)


@pytest.fixture(scope="module")
def program(expand):
    requested = expand()
    return Pipeline().compile(requested[0], pending=len(requested), batch_size=2)


@pytest.fixture
def shared(program):
    """A pipeline whose runs share one program."""
    return FixedPipeline(program)


@pytest.fixture(scope="module")
def made(small, program, tmp_path_factory):
    """A folder with three samples, the last with its video too."""
    workdir, pipeline = tmp_path_factory.mktemp("made"), FixedPipeline(program)
    sample.run(small(), workdir, pipeline)
    for seed in (0, 1):
        (folder_of(seed, workdir) / "video.mp4").touch()  # so that the last is the only one without
    sample.run(small(video=True), workdir, pipeline)
    for seed in (0, 1):
        (folder_of(seed, workdir) / "video.mp4").unlink()
    return workdir


@pytest.fixture
def command(capsys):
    """Runs the command in this process, and returns its exit status and the lines on stderr."""

    def run(*arguments, pipeline=None):
        status = run_main(functools.partial(sample.main, pipeline), "sample", *arguments)
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture
def refused(command, models, tmp_path):
    """Runs a small config with wrong changes, and returns the one line on stderr, without `error: `."""

    def run(change, pipeline=None):
        settings = SMALL | models | change
        flags = [f"--config.{key}={value}" for key, value in settings.items()]
        status, lines = command(f"--config={CONFIG}", f"--workdir={tmp_path / 'out'}", *flags, pipeline=pipeline)
        assert status == 2 and len(lines) == 1, lines
        assert not (tmp_path / "out").exists()
        return lines[0].removeprefix("error: ")

    return run


def folder_of(seed, workdir):
    (folder,) = workdir.glob(f"*_{seed}_*")
    return folder


def state_of(workdir):
    """File -> time of its last change."""
    return {path: path.stat().st_mtime_ns for path in workdir.rglob("*.*") if path.is_file()}


def assert_same_sample(folder, other):
    for name in ("image.png", "spectrogram.png"):
        np.testing.assert_array_equal(images.read_png(folder / name)[0], images.read_png(other / name)[0])
    np.testing.assert_array_equal(sounds.read_wav(folder / "audio.wav")[0], sounds.read_wav(other / "audio.wav")[0])


# What is made


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
    expected = {"batch_size": 8, "position": 0, "video": True, "devices_per_sample": 1}
    (latents,) = (one.latents for one in program([recorded_settings(record)]))
    expected["latents_sha256"] = hashlib.sha256(latents.tobytes()).hexdigest()
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


# What is made again


def test_a_second_run_makes_only_what_is_missing(made, small, shared, tmp_path, caplog):
    workdir = shutil.copytree(made, tmp_path / "out")
    before = state_of(workdir)
    shutil.rmtree(folder_of(0, workdir))
    (folder_of(1, workdir) / "sample.json").unlink()  # killed just before it was written
    (folder_of(2, workdir) / "video.mp4").unlink()  # not asked for
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
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [re.match(r"\S+ was \S+", line)[0] for line in told] == [
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


def in_a_process(*arguments, program="its_jax.sample"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)], capture_output=True, text=True, env=environment
    )


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


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_step": 3}, "there is no setting num_step; did you mean num_steps?"),
        ({"image.promt": "x"}, "there is no setting image.promt; did you mean image.prompt?"),
        ({"image.size": 3}, "there is no setting image.size; known are"),
        ({"num_steps": "many"}, "num_steps"),
        ({"solver": "heun"}, "solver='heun' is not known here; choose one of ddim, euler, dpmpp_2m"),
        ({"image.view": "block_rearrange", "crop_image": True}, "crop_image cuts the end of the spectrogram off"),
        ({"image.view": "flip"}, "image.view='flip' is not known here; choose one of identity, block_rearrange"),
        ({"num_steps": 0}, "num_steps=0: must be 1 or more"),
        ({"image.start_step": 4, "audio.start_step": 7}, "no model takes part at step 0 of 4"),
        ({"image.weight": 0.0, "audio.weight": 0.0}, "sum to zero"),
        ({"num_samples": -1}, "num_samples=-1: must be 1 or more"),
        ({"batch_size": -1}, "batch_size=-1: must be 0"),
        ({"height": -12}, "height=-12: must be 1 or more"),
        ({"image.model": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_bad_settings_are_refused_in_one_line(change, message, refused):
    assert message in refused(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 1001}, "num_steps=1001: must be 1 to 1000, the number of training steps"),
        ({"width": 47}, "width=47: must be a multiple of 2"),
        ({"width": 46, "image.view": "block_rearrange"}, "width=46: must be a multiple of 4"),
        ({"width": 32, "crop_image": True}, "width=32: must be above 32"),
        ({"width": 8, "cutoff_latent": True}, "width=8: must be above 8"),
        ({"height": 14}, "height=14: the vocoder has 12 mel bands"),
    ],
)
def test_settings_that_do_not_fit_the_models_are_refused(change, message, refused):
    assert message in refused(change, Pipeline(loader=WeightlessLoader()))


class WeightlessLoader:
    """Opens models, but fails the test that reads their weights."""

    check_components = staticmethod(pretrained.check_components)
    abstract_model = staticmethod(pretrained.abstract_model)

    def restore_weights(self, model, **options):
        raise AssertionError("weights are read before the settings are checked")


def test_a_command_that_makes_no_sense_is_refused(command, tmp_path):
    workdir = f"--workdir={tmp_path / 'out'}"
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "typo.py").write_text("def get_config():\n    return x\n")
    (tmp_path / "dict.py").write_text("def get_config():\n    return {'seed': 1}\n")
    for arguments, message in [
        ([f"--config={CONFIG}"], "workdir"),
        ([workdir], "give either --config"),
        ([workdir, f"--config={CONFIG}", "--from=a.png"], "give either --config"),
        ([workdir, f"--config={CONFIG}", "--size=3"], "size"),
        ([workdir, f"--config={CONFIG}", "surplus"], "unexpected argument 'surplus'"),
        ([workdir, f"--config={tmp_path / 'none.py'}"], "No such file or directory: '"),
        ([workdir, f"--from={tmp_path / 'none.png'}"], "none.png: cannot read: No such file"),
        ([workdir, f"--from={tmp_path / 'a.png'}"], "a.png: cannot read"),
        ([workdir, "--from="], "settings are read from"),
        ([workdir, f"--config={tmp_path / 'typo.py'}"], "typo.py, line 2: NameError: name 'x' is not defined"),
        ([workdir, f"--config={tmp_path / 'dict.py'}"], "get_config must return a ConfigDict, not a dict"),
        ([workdir, f"--from={tmp_path / 'other.json'}"], "not the settings of a sample of ours"),
        ([workdir, f"--config={ROOT / 'configs/sd15_auffusion.py'}:lion"], "'lion'; choose one of bell, corgi, dog"),
    ]:
        status, lines = command(*arguments)
        assert status == 2 and len(lines) == 1 and lines[0].startswith("error: "), (arguments, lines)
        assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_process_says_no_in_one_line_too(tmp_path):
    result = in_a_process(f"--config={CONFIG}", f"--workdir={tmp_path / 'out'}", "--config.num_step=3")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and "did you mean num_steps?" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_workdir_that_cannot_be_written_is_refused(small, tmp_path):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=rf"workdir {workdir}: cannot be written"):
            sample.run(small(), workdir, NoPipeline())


def test_a_sample_folder_that_cannot_be_made_is_named(small, shared, expand, tmp_path):
    (tmp_path / sample_id(expand()[0])).touch()
    with pytest.raises(UserError, match="cannot write: File exists"):
        sample.run(small(), tmp_path, shared)


def drop(state):
    del state["final_layer_norm.bias"]


def add(state):
    state["final_layer_norm.gain"] = torch.ones(3)


def reshape(state):
    state["final_layer_norm.bias"] = torch.ones(3)


def spoil(state):
    state["final_layer_norm.bias"][1] = torch.nan


def tensors(change):
    """A damage to the text encoder, which is converted first."""
    return lambda folder: edit(folder / "text_encoder" / "model.safetensors", change)


def truncate(folder):
    file = folder / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def other_architecture(folder):
    edit_json(folder / "text_encoder" / "config.json", architectures=["BertModel"])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, ["damaged"]),
        (empty, ["damaged", "empty"]),
        (tensors(drop), ["'final_layer_norm.bias'", "missing"]),
        (tensors(add), ["'final_layer_norm.gain'", "no place"]),
        (tensors(reshape), ["'final_layer_norm.bias'", "shape [3]", "asks for [24]"]),
        (tensors(spoil), ["'final_layer_norm.bias'", "not finite"]),
        (truncate, ["model.safetensors"]),
        (other_architecture, ["BertModel", "only CLIPTextModel or T5EncoderModel is supported"]),
    ],
)
def test_a_damaged_model_is_refused_by_name(damage, words, sources, refused, tmp_path):
    damage(shutil.copytree(sources / "image", tmp_path / "damaged"))
    message = refused({"image.model": tmp_path / "damaged"})
    assert not [word for word in words if word not in message], message
    assert safetensors.torch.load_file(sources / "image" / "text_encoder" / "model.safetensors")


def test_models_that_do_not_fit_are_refused(models, refused, tmp_path):
    other = pathlib.Path(shutil.copytree(models["audio.model"], tmp_path / "other"))
    config = other / "vae" / "config.json"
    changed = config.read_text().replace("0.18215", "0.28215")
    config.write_text(changed)
    message = refused({"audio.model": other})
    assert "do not share a latent space: the vae's scaling_factor is 0.18215 in the one and 0.28215" in message
    shutil.copy(pathlib.Path(models["audio.model"]) / "vae" / "config.json", config)
    schedule = other / "scheduler" / "scheduler_config.json"
    schedule.write_text(schedule.read_text().replace("0.012", "0.013"))
    assert "different noise schedules" in refused({"audio.model": other})


def test_a_model_without_vocoder_cannot_sound(models, refused):
    assert "has no vocoder" in refused({"audio.model": models["image.model"]})


def test_a_config_of_ones_own_is_checked_too(command, tmp_path):
    own = CONFIG.read_text().replace("config.num_steps", "config.num_stepps")
    (tmp_path / "own.py").write_text(own)
    status, lines = command(f"--config={tmp_path / 'own.py'}", f"--workdir={tmp_path / 'out'}")
    assert status == 2 and lines == ["error: there is no setting num_stepps; did you mean num_steps?"]


def test_the_shell_sets_any_prompt(command, shared, models, tmp_path):
    prompt = 'a "cat", 一座城堡 🐶 it\'s / \\'
    settings = SMALL | models | {"image.prompt": prompt, "num_samples": 1}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    status, _ = command(f"--config={CONFIG}", f"--workdir={tmp_path}", *flags, pipeline=shared)
    assert status == 0
    (record,) = tmp_path.glob("*/sample.json")
    assert json.loads(record.read_text())["image"]["prompt"] == prompt
