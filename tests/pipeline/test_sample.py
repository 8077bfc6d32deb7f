"""The sample command with small random models: what is written, what is made again, what is refused and in which words."""

import dataclasses
import errno
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import types

import imageio_ffmpeg
import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from absl import app
from absl.testing import flagsaver
from tqdm import tqdm

from its_jax import pretrained, sample
from its_jax.checkpoints import load
from its_jax.errors import UserError
from its_jax.generate import production
from its_jax.media import embedded_settings, images, sounds
from its_jax.pipeline import decoding
from its_jax.pipeline import sampler as pipeline_sampler
from its_jax.pipeline.sampler import Sampler
from its_jax.runtime import cli
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import read_settings
from its_jax.settings.records import from_record, recorded_settings
from its_jax.settings.schema import TERMS, RunOptions
from its_jax.storage import files
from its_jax.storage.files import read_json, write_json
from tests.helpers import model_folder
from tests.helpers.collectives import COLLECTIVES
from tests.helpers.model_folder import edit, edit_json
from tests.helpers.sample_settings import replace_in_term
from tests.helpers.small import CONFIG, SMALL

ROOT = pathlib.Path(__file__).parents[2]
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
def sampler(expand):
    requested = expand()
    return Sampler(requested[0], pending=len(requested), batch_size=2)


@pytest.fixture
def shared(monkeypatch, sampler):
    """Runs take the one sampler in place of their own."""
    monkeypatch.setattr(production, "Sampler", lambda settings, **kw: sampler)
    return sampler


@pytest.fixture(scope="module")
def made(small, sampler, tmp_path_factory):
    """A folder with three samples, the last with its video too."""
    workdir = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(production, "Sampler", lambda settings, **kw: sampler)
        sample.run(small(), workdir)
        for seed in (0, 1):
            (folder_of(seed, workdir) / "video.mp4").touch()  # so that the last is the only one without
        sample.run(small(video=True), workdir)
        for seed in (0, 1):
            (folder_of(seed, workdir) / "video.mp4").unlink()
    return workdir


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process: its exit status, and what it says on stderr, by line."""

    def run(*arguments):
        argv = ["sample", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)  # config_flags looks there
        monkeypatch.setattr(app, "run", lambda main, flags_parser: main(flags_parser(argv)))
        status = 0
        with flagsaver.flagsaver():
            try:
                cli.run(sample.main)
            except SystemExit as stop:
                status = stop.code
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture
def refused(command, models, tmp_path):
    """Runs a small config with changes that are bad: the one line that is said, without `error: `."""

    def run(change):
        settings = SMALL | models | change
        flags = [f"--config.{key}={value}" for key, value in settings.items()]
        status, lines = command(f"--config={CONFIG}", f"--workdir={tmp_path / 'out'}", *flags)
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


def test_files_hold_what_was_made_and_its_settings(made, expand, sampler):
    settings, folder = expand()[2], folder_of(2, made)
    (expected,) = sampler([settings], position=0)
    picture, in_picture = images.read_png(folder / "image.png")
    spectrogram, in_spectrogram = images.read_png(folder / "spectrogram.png")
    waveform, rate, in_sound = sounds.read_wav(folder / "audio.wav")
    np.testing.assert_allclose(picture, expected.pictures["image"], atol=0.5 / 255 + 1e-5)
    np.testing.assert_allclose(spectrogram, expected.spectrogram, atol=0.5 / 255 + 1e-5)
    np.testing.assert_allclose(waveform, expected.waveform, atol=1 / 32768 + 1e-5)
    assert picture.shape == (12, 48, 3) and spectrogram.shape == (12, 48) and rate == 16000
    assert len(waveform) == 48 * model_folder.VOCODER["hop_size"]
    assert picture.std() > 0.01 and spectrogram.std() > 0.01 and waveform.std() > 1e-3
    record = read_json(folder / "sample.json")
    seconds = record.pop("seconds")
    assert in_picture == in_spectrogram == in_sound == record
    assert settings.to_dict().items() <= record.items()
    assert seconds.keys() == {"load", "compile", "encode", "denoise", "decode", "vocode", "write"}
    assert min(seconds.values()) > 0


def test_the_record_is_complete(made, sampler):
    record = read_json(folder_of(2, made) / "sample.json")
    assert record["id"] == folder_of(2, made).name
    assert record["models"] == {"image": sampler.image.identity, "audio": sampler.audio.identity}
    assert {"jax", "jaxlib", "flax", "numpy", "its_jax"} <= record["versions"].keys()
    assert record["versions"]["jax"] == jax.__version__
    # It was the only one that was missing, on 8 devices: a batch of 2 is rounded up.
    expected = {"batch_size": 8, "position": 0, "video": True, "devices_per_sample": 1}
    (latents,) = (sample.latents for sample in sampler([recorded_settings(record)]))
    expected["latents_sha256"] = hashlib.sha256(latents.tobytes()).hexdigest()
    assert record["run"] == expected | {"platform": "cpu", "devices": 8}


def test_the_video_plays(made):
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    arguments = [ffmpeg, "-v", "error", "-i", folder_of(2, made) / "video.mp4", "-f", "null", "-"]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr


def test_the_spectrogram_is_what_is_vocoded(made, sampler):
    folder = folder_of(1, made)
    spectrogram, _ = images.read_png(folder / "spectrogram.png")
    again = decoding.vocode(sampler.audio.vocoder, spectrogram[None], sampler.mel, "hifigan")[0]
    waveform = sounds.read_wav(folder / "audio.wav")[0]
    assert np.abs(again - waveform).max() < 1e-4  # 16 bits are 3e-5


def test_crop_image_shortens_all_files(small, shared, tmp_path):
    sample.run(small(crop_image=True, num_samples=1), tmp_path)
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
        sample.run(small(), workdir)
    assert "1 of 3 samples are in" in caplog.text
    after = state_of(workdir)
    assert after.keys() | {folder_of(2, workdir) / "video.mp4"} == before.keys()
    assert {path for path in after if after[path] == before[path]} == set(folder_of(2, workdir).iterdir())
    for seed in range(3):
        assert_same_sample(folder_of(seed, workdir), folder_of(seed, made))
    sample.run(small(), workdir)
    assert state_of(workdir) == after


def test_a_finished_run_loads_nothing(made, small, monkeypatch):
    monkeypatch.setattr(production, "Sampler", None)
    sample.run(small(), made)


def test_a_run_that_was_interrupted_goes_on(small, command, shared, made, tmp_path, monkeypatch):
    write = files.write
    flags = [f"--config.{key}={value}" for key, value in small().items() if key in SMALL]
    flags += [f"--config.{term}.{key}={small()[term][key]}" for term in TERMS for key in ("model", "start_step")]

    def interrupted(path, data):
        if path.name == "audio.wav" and "_1_" in path.parent.name:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(files, "write", interrupted)
    status, lines = command(f"--config={CONFIG}", f"--workdir={tmp_path}", *flags)
    assert status == 2 and "error: interrupted" in lines[-1]
    assert sorted(path.name for path in folder_of(1, tmp_path).iterdir()) == ["image.png", "spectrogram.png"]
    whole = state_of(folder_of(0, tmp_path))
    monkeypatch.setattr(files, "write", write)
    status, _ = command(f"--config={CONFIG}", f"--workdir={tmp_path}", *flags)
    assert status == 0
    assert state_of(folder_of(0, tmp_path)) == whole
    for seed in range(3):
        assert_same_sample(folder_of(seed, tmp_path), folder_of(seed, made))


@pytest.mark.parametrize("name", ["image.png", "spectrogram.png", "audio.wav", "sample.json"])
def test_any_file_makes_its_sample_again(name, made, command, shared, tmp_path, caplog):
    file = shutil.copy(folder_of(1, made) / name, tmp_path)  # alone
    status, _ = command(f"--from={file}", f"--workdir={tmp_path / 'again'}")
    assert status == 0 and not [record for record in caplog.records if record.levelname == "WARNING"]
    (folder,) = (tmp_path / "again").iterdir()
    assert folder.name == folder_of(1, made).name
    assert_same_sample(folder, folder_of(1, made))
    runs = [read_json(f / "sample.json")["run"] for f in (folder, folder_of(1, made))]
    assert runs[0] == runs[1]


def test_what_makes_the_bits_differ_is_told(made, shared, tmp_path, caplog):
    record = read_json(folder_of(1, made) / "sample.json")
    record["models"]["audio"], record["versions"]["jax"] = "0123456789ab", "0.1"
    write_json(tmp_path / "sample.json", record)
    sample.run_again(tmp_path / "sample.json", tmp_path / "again")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [re.match(r"\S+ was \S+", line)[0] for line in told] == [
        "models.audio was 0123456789ab",
        "versions.jax was 0.1",
    ]


def test_a_sample_of_another_machine_is_not_made_in_its_batch(made, small, sampler, monkeypatch, tmp_path, caplog):
    record = read_json(folder_of(1, made) / "sample.json")
    record["run"] |= {"platform": "tpu", "devices": 64, "batch_size": 4096, "position": 4000}
    write_json(tmp_path / "sample.json", record)
    asked = []
    monkeypatch.setattr(
        production, "Sampler", lambda settings, *, batch_size, **kw: asked.append(batch_size) or sampler
    )
    sample.run_again(tmp_path / "sample.json", tmp_path / "again")
    assert asked == [0]
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
        sample.run(small(), workdir)
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


def test_the_benchmark_times_every_stage_and_counts_its_work(models, tmp_path, monkeypatch):
    """Its figures are tested in test_measure.py. On one device, and with a matrix product that is compiled well."""
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    settings = [f"--config.{key}={value}" for key, value in (SMALL | models).items()]
    command = [f"--config={CONFIG}", *settings, "--batches=2,1", "--repeats=1", f"--out={tmp_path}/a/b.json"]
    run = in_a_process(*command, program="its_jax.benchmark")
    assert run.returncode == 0, run.stderr
    figures = json.loads((tmp_path / "a/b.json").read_text())
    assert [of["batch_size"] for of in figures["batches"]] == [1, 2]
    for name in ("machine", "date", "versions", "settings"):
        assert figures[name]
    *_, title, of_1, of_2 = run.stdout.splitlines()
    assert "of product" in title and of_1.startswith("1 ") and of_2.startswith("2 ")
    for name in figures["batches"][0]["stages"]:
        assert name in run.stdout


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--batches=1,x", "numbers of 1 or more"),
        ("--out={folder}", "is a folder"),
        ("--batches=1 --config.devices_per_sample=3", "devices_per_sample=3"),
        ("--out={file}/b.json", "cannot be"),
    ],
)
def test_the_benchmark_says_what_is_wrong_before_it_measures(models, tmp_path, flag, words):
    (tmp_path / "file").touch()
    settings = [f"--config.{key}={value}" for key, value in (SMALL | models).items()]
    wrong = flag.format(folder=tmp_path, file=tmp_path / "file").split()
    run = in_a_process(f"--config={CONFIG}", *settings, *wrong, program="its_jax.benchmark")
    assert run.returncode == 2 and words in run.stderr and len(run.stderr.splitlines()) == 1


# Batches


def test_settings_do_not_compile_again(expand, sampler):
    sampler(expand())
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    jax.jit(lambda x: x * 3 + 1)(np.arange(5.0))
    assert len(compilations) == 1  # it is heard
    change = {"image.prompt": "a cat", "audio.prompt": "dog", "audio.negative_prompt": "cat", "seed": 50}
    change |= {"image.guidance_scale": 2.0, "image.weight": 0.9, "image.start_step": 3, "num_samples": 2}
    samples = sampler([*expand(change), *expand({"audio.weight": 0.0, "image.start_step": 0}, seed=9)])
    assert len(samples) == 5
    sampler(expand(num_steps=5, solver="dpmpp_2m"))
    assert len(compilations) == 1
    with pytest.raises(ValueError, match="jobs of one batch must agree"):
        sampler([*expand(num_steps=5), *expand()])
    with pytest.raises(ValueError, match="jobs of one sampler must agree"):
        sampler(expand(width=128))


def test_a_prompt_is_encoded_once(expand, sampler, monkeypatch):
    encoded = []

    def counted(self, model, prompt, prepare=Sampler._prepare_text):
        encoded.append((model.source, prompt))
        return prepare(self, model, prompt)

    monkeypatch.setattr(Sampler, "_prepare_text", counted)
    monkeypatch.setattr(sampler, "_texts", {})
    sampler([*expand({"image.prompt": "a cat"}), *expand({"image.prompt": "a dog"})])
    assert len(encoded) == 5  # three for the picture, two for the sound: the negative ones are equal
    sampler(expand({"image.prompt": "a cat"}, seed=5))
    assert len(encoded) == 5
    (before,) = sampler(expand({"image.prompt": "a dog"}, num_samples=1))
    monkeypatch.setattr(pipeline_sampler, "TEXT_BYTES", 0)  # so that each makes room for the next
    sampler(expand({"image.prompt": "a cat"}))
    (after,) = sampler(expand({"image.prompt": "a dog"}, num_samples=1))
    assert len(encoded) == 5
    np.testing.assert_array_equal(before.latents, after.latents)
    monkeypatch.setattr(pipeline_sampler, "HOST_TEXT_BYTES", 0)  # so that it is forgotten
    sampler(expand({"image.prompt": "a cat"}))
    assert len(encoded) == 6


@pytest.mark.parametrize("change", [{"image.weight": 0.0}, {"image.start_step": 4}])
def test_prompts_of_a_term_that_takes_no_part_are_not_encoded(expand, sampler, monkeypatch, change):
    (expected,) = sampler(expand(change, num_samples=1))
    encoded, encode = [], sampler._encode

    def counted(source):
        return lambda *inputs: encoded.append(source) or encode[source](*inputs)

    monkeypatch.setattr(sampler, "_encode", {source: counted(source) for source in encode})
    monkeypatch.setattr(sampler, "_texts", {})
    (sample,) = sampler(expand(change | {"image.prompt": "a cat"}, num_samples=1))
    assert encoded == [sampler.audio.source] * 2
    np.testing.assert_array_equal(sample.latents, expected.latents)


def test_a_term_at_guidance_scale_1_sees_no_negative_prompt(expand):
    change = {"image.guidance_scale": 1.0}
    requested = expand(change, num_samples=1)
    one = Sampler(requested[0], pending=1)
    (sample,) = one(requested)
    (other,) = one(expand(change | {"image.negative_prompt": "a dog"}, num_samples=1))
    np.testing.assert_array_equal(sample.latents, other.latents)
    # 1 + 1e-6 takes the program with both.
    near = expand({"image.guidance_scale": 1 + 1e-6}, num_samples=1)
    (expected,) = Sampler(near[0], pending=1)(near)
    np.testing.assert_allclose(sample.latents, expected.latents, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="guided"):
        one(near)


FEWER = {"cache_interval": 2, "image.guidance_start_step": 2, "audio.guidance_stop_step": 3}


@pytest.mark.parametrize("window", [0, 24])
def test_inner_layers_and_guidance_at_some_steps_only(expand, window):
    """Sample by sample as each alone has it, though one of a batch is guided where the other is not; where layers serve
    several steps, the two make no batch, for it would depend on both at which steps they do."""
    requested = expand(FEWER, window=window, num_samples=2, cache_interval=1)
    requested[1] = replace_in_term(requested[1], "image", guidance_start_step=3)
    one = Sampler(requested[0], pending=2, batch_size=2)
    together = one(requested)
    for place, (one_of, settings) in enumerate(zip(together, requested, strict=True)):
        (alone,) = one([settings], position=place)
        np.testing.assert_allclose(one_of.latents, alone.latents, rtol=0, atol=1e-5 * np.abs(alone.latents).max())
    requested = [dataclasses.replace(settings, cache_interval=3) for settings in requested]
    one = Sampler(requested[0], pending=2, batch_size=2)
    with pytest.raises(ValueError, match="jobs of one batch must agree"):
        one(requested)
    with pytest.raises(ValueError, match="jobs of one batch must agree"):
        one([requested[0], replace_in_term(requested[0], "image", start_step=2)])
    apart = [one([settings])[0] for settings in expand(FEWER, window=window, num_samples=2)]
    plain = expand(window=window, num_samples=1)
    (whole,) = Sampler(plain[0], pending=1, batch_size=2)(plain)
    assert 1e-3 < np.abs(apart[0].latents - whole.latents).max() < np.abs(whole.latents).max()
    with pytest.raises(ValueError, match="must agree"):
        one(plain)


def test_a_batch_that_is_not_full_has_the_bits_of_a_full_one(expand, sampler):
    requested = expand(num_samples=8)
    full = sampler(requested)
    for one, other in zip(sampler(requested[:3]), full, strict=False):
        np.testing.assert_array_equal(one.latents, other.latents)
        np.testing.assert_array_equal(one.waveform, other.waveform)
    (alone,) = sampler(requested[5:6], position=5)
    np.testing.assert_array_equal(alone.latents, full[5].latents)
    assert alone.position == 5
    assert np.abs(full[0].latents - full[1].latents).max() > 0.1


@pytest.fixture(scope="module")
def other_sampler(expand, models):
    """Two samples on each device, and every choice but the default one."""
    change = {"image.model": models["audio.model"], "image.view": "block_rearrange"}
    requested = expand(change, vocoder="griffin_lim", solver="dpmpp_2m", num_samples=16)
    return Sampler(requested[0], pending=16, batch_size=16), requested


def test_latents_do_not_depend_on_the_place_in_the_batch(other_sampler):
    sampler, requested = other_sampler
    assert sampler.batch_size == 16
    forwards, backwards = sampler(requested), sampler(requested[::-1])[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert one.position == 15 - other.position
        np.testing.assert_allclose(one.latents, other.latents, rtol=0, atol=1e-5)
    for one, other in zip(sampler(requested[:3]), forwards, strict=False):
        np.testing.assert_array_equal(one.latents, other.latents)


def test_every_choice_but_the_default_one(other_sampler):
    sampler, requested = other_sampler
    assert sampler.audio.vae is sampler.image.vae
    (result,) = sampler(requested[:1])
    # The picture's halves, one above the other, lie side by side in the spectrogram.
    assert result.latents.shape == (6, 24, 4) and result.pictures["image"].shape == (24, 24, 3)
    assert result.spectrogram.shape == (12, 48)
    assert result.waveform.shape == (48 * 20,) and result.fault is None


def test_bfloat16_is_close(expand, sampler):
    requested = expand({"dtype": "bfloat16"}, num_samples=1)
    (rounded,) = Sampler(requested[0], pending=1)(requested)
    (exact,) = sampler(expand(num_samples=1))
    assert rounded.fault is None and rounded.latents.dtype == np.float32
    difference = np.linalg.norm(rounded.latents - exact.latents) / np.linalg.norm(exact.latents)
    assert 0 < difference < 0.1  # 8 bits, some steps, guidance 5


def test_devices_work_alone(sampler, other_sampler):
    for one in (sampler, other_sampler[0]):
        for program in (*one._encode.values(), one._start, one._denoise, one._decode, one._vocode):
            assert not re.search(COLLECTIVES, program.as_text())


def test_one_device_gives_the_latents_of_eight(expand, sampler, monkeypatch):
    requested = expand(num_samples=3)
    eight = sampler(requested)
    devices = jax.local_devices()
    monkeypatch.setattr(jax, "local_devices", lambda: devices[:1])
    one = Sampler(requested[0], pending=1)
    assert (sampler.batch_size, one.batch_size) == (8, 1)
    for settings, sample_of_eight in zip(requested, eight, strict=True):
        (alone,) = one([settings])
        np.testing.assert_allclose(alone.latents, sample_of_eight.latents, rtol=0, atol=1e-5)


def test_files_are_written_while_the_next_batch_is_made(expand, shared, tmp_path, monkeypatch):
    """The writer of the first batch waits until the second is on its way."""
    monkeypatch.setattr(shared, "batch_size", 8)
    second_began, written = threading.Event(), []

    def write(settings, sample, *rest, **_):
        assert settings.seed >= 8 or second_began.wait(60)
        written.append(settings.seed)

    class Watched:
        def __getattr__(self, name):
            return getattr(shared, name)

        def __call__(self, batch, *args, **kw):
            if batch[0].seed >= 8:
                second_began.set()
            return shared(batch, *args, **kw)

    monkeypatch.setattr(production, "Sampler", lambda settings, **kw: Watched())
    monkeypatch.setattr(production, "write", write)
    production.make(expand(num_samples=16), tmp_path, options=options())
    assert sorted(written) == list(range(16))


def test_batches_follow_one_another(expand, shared, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "batch_size", 8)
    requested, sizes = expand(num_samples=19), []
    monkeypatch.setattr(production, "write", lambda settings, sample, *rest, **_: sizes.append(sample.position))
    production.make(requested, tmp_path, options=options())
    assert sorted(sizes) == sorted([*range(8), *range(8), *range(3)])


# How many at once


class Weightless(Sampler):
    """Chooses a batch size, with figures in place of programs.

    Args:
      free: bytes of each device. of_batch: samples on a device -> what a program takes for them. compiles: how many the
        compiler can place there.
    """

    def __init__(self, *, pending, asked=0, free, of_batch, compiles=64, devices=1):
        in_use = 1000
        memory = {"bytes_limit": (free + in_use) / pipeline_sampler.MEMORY_SHARE, "bytes_in_use": in_use}
        self._device = types.SimpleNamespace(platform="tpu", memory_stats=lambda: memory)
        self._devices, self._chosen, self._job = devices, not asked, None
        self._of_batch, self._compiles, self.tried = of_batch, compiles, []
        self._choose(pending, asked)

    def _compile(self):
        on_device = self.batch_size // self._devices
        self.tried.append(self.batch_size)
        if on_device > self._compiles:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.")
        temporaries, texts = self._of_batch(on_device), {"image": 3 * on_device, "audio": 2 * on_device}
        self._join = {name: program(arguments=size, outputs=size) for name, size in texts.items()}
        self._denoise, self._decode = program(temporaries=temporaries), program(outputs=5 * on_device)
        self._vocode = program(arguments=10**9)  # weights and the like, which are in use before


def program(arguments=0, temporaries=0, outputs=0):
    sizes = {"argument_size_in_bytes": arguments, "temp_size_in_bytes": temporaries, "output_size_in_bytes": outputs}
    return types.SimpleNamespace(memory_analysis=lambda: types.SimpleNamespace(**sizes))


@pytest.mark.parametrize(
    ("settings", "tried"),
    [
        # A sample takes 10 for its texts, twice, and 90: the program that takes most counts.
        (dict(pending=64, free=1000, of_batch=lambda n: 90 * n), [1, 8]),
        (dict(pending=64, free=1600, of_batch=lambda n: 90 * n), [1, 16]),
        (dict(pending=64, free=1599, of_batch=lambda n: 90 * n), [1, 8]),
        (dict(pending=64, free=1600, of_batch=lambda n: 90 * n, devices=4), [4, 64]),
        # A part that does not grow shows in the first, so that more of the others fit.
        (dict(pending=64, free=1599, of_batch=lambda n: max(500, 90 * n)), [1, 2, 4, 8]),
        (dict(pending=3, free=1600, of_batch=lambda n: max(500, 90 * n)), [1, 2, 3]),
        (dict(pending=3, free=1600, of_batch=lambda n: 90 * n), [1, 3]),
        (dict(pending=5, free=1600, of_batch=lambda n: 90 * n, devices=4), [4, 8]),
        (dict(pending=1, free=1600, of_batch=lambda n: 90 * n), [1]),
        (dict(pending=900, free=10**6, of_batch=lambda n: 90 * n), [1, 64]),
        # Growth beyond proportion shows in the program of that size, which is then halved.
        (dict(pending=64, free=1600, of_batch=lambda n: 90 * n**1.1), [1, 16, 8]),
        # So it is if the compiler refuses.
        (dict(pending=64, free=1600, of_batch=lambda n: 90 * n, compiles=7), [1, 16, 8, 4]),
        (dict(pending=6, free=1600, of_batch=lambda n: 90 * n, compiles=5), [1, 6, 3]),
        # Without figures that fit, one is tried.
        (dict(pending=64, free=10, of_batch=lambda n: 90 * n), [1]),
        (dict(pending=64, asked=5, free=10, of_batch=lambda n: 90 * n, devices=4), [8]),
    ],
)
def test_the_largest_batch_that_fits_is_chosen(settings, tried, monkeypatch):
    monkeypatch.setattr(pipeline_sampler, "TEXT_BYTES", 0)
    sampler = Weightless(**settings)
    assert sampler.tried == tried and sampler.batch_size == tried[-1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(asked=6), "batch_size=6 is beyond the memory; set it to 3 or less, or to 0, which chooses"),
        (dict(asked=1, compiles=0), "one sample on each device is beyond the memory; set a dtype of fewer bits"),
        (dict(compiles=0), "one sample on each device is beyond the memory; set a dtype of fewer bits"),
    ],
)
def test_what_can_be_set_is_said_if_memory_does_not_suffice(settings, words):
    with pytest.raises(UserError, match=f"^{words}"):
        Weightless(pending=64, free=1600, of_batch=lambda n: 90 * n, **{"compiles": 4} | settings)


def test_a_device_that_does_not_tell_its_memory_needs_a_batch_size(monkeypatch):
    monkeypatch.setattr(Weightless, "_compile", lambda self: None)
    chooser = Weightless(pending=1, asked=1, free=0, of_batch=int)
    chooser._device.memory_stats = lambda: None
    with pytest.raises(UserError, match="does not tell its memory; give a number"):
        chooser._choose(1, 0)


@pytest.fixture
def scarce(monkeypatch):
    """Devices on which a batch of more than two fails at its third call of the loop, for want of memory."""
    devices = jax.local_devices()
    monkeypatch.setattr(jax, "local_devices", lambda: devices[:1])
    compile_, sizes = Sampler._compile, []

    def compiled(self):
        compile_(self)
        denoise, calls = self._denoise, itertools.count()

        def run(*args):
            if self.batch_size > 2 and next(calls) == 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")
            return denoise(*args)

        self._denoise = run
        sizes.append(self.batch_size)

    monkeypatch.setattr(Sampler, "_compile", compiled)
    return sizes


def test_a_batch_that_is_beyond_the_memory_is_halved_and_nothing_is_lost(expand, scarce, tmp_path, monkeypatch, caplog):
    bars = []
    monkeypatch.setattr(production, "tqdm", lambda **kw: bars.append(tqdm(**kw)) or bars[-1])
    requested = expand(num_samples=5)
    production.make(requested, tmp_path, options=options())
    assert scarce == [4, 2]
    assert {path.name for path in tmp_path.iterdir()} == {sample_id(settings) for settings in requested}
    records = [read_json(tmp_path / sample_id(settings) / "sample.json") for settings in requested]
    assert [record["run"]["batch_size"] for record in records] == [2] * 5
    assert [record["run"]["position"] for record in records] == [0, 1, 0, 1, 0]
    assert bars[0].n == bars[0].total
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["4 samples at once are beyond the memory; going on with 2"]


def test_a_batch_size_that_was_asked_for_is_not_halved(expand, scarce, tmp_path):
    with pytest.raises(UserError, match="batch_size=3 is beyond the memory; set it to 1 or less, or to 0"):
        production.make(expand(num_samples=5), tmp_path, options=options(batch_size=3))
    assert scarce == [3]


def test_other_errors_of_a_batch_are_not_taken_for_want_of_memory(expand, shared, tmp_path, monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    monkeypatch.setattr(shared, "_denoise", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: broken"):
        production.make(expand(), tmp_path, options=options())


# What goes wrong on the way


def test_samples_that_are_not_finite_are_named_and_the_others_written(expand, shared, tmp_path):
    requested = expand()
    requested[1] = replace_in_term(requested[1], "image", guidance_scale=3e38)  # it takes part from step 1 on
    with pytest.raises(UserError) as caught:
        production.make(requested, tmp_path, options=options())
    words = f"not written: {sample_id(requested[1])}: the latents are not finite from step [12] on"
    assert re.fullmatch(words, str(caught.value))
    assert {path.name for path in tmp_path.iterdir()} == {sample_id(requested[0]), sample_id(requested[2])}
    for folder in tmp_path.iterdir():
        assert sorted(path.name for path in folder.iterdir()) == FILES[:-1]


def test_samples_that_are_not_finite_are_named_when_the_disk_is_full_too(expand, shared, tmp_path, monkeypatch):
    def full(*_, **__):
        raise UserError("cannot write: No space left on device")

    requested = expand()
    requested[1] = replace_in_term(requested[1], "image", guidance_scale=3e38)
    monkeypatch.setattr(production, "write", full)
    with pytest.raises(UserError, match=f"No space left on device; {sample_id(requested[1])}: the latents are not"):
        production.make(requested, tmp_path, options=options())


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
            sample.run(small(), tmp_path)
    complete = {path.parent for path in tmp_path.glob("*/sample.json")}
    assert 1 <= len(complete) < 3
    assert not list(tmp_path.rglob(".*"))  # of a file that was not finished
    assert all(any(folder.iterdir()) for folder in tmp_path.iterdir())
    before = [state_of(folder) for folder in complete]
    sample.run(small(), tmp_path)
    assert [state_of(folder) for folder in complete] == before
    for seed in range(3):
        assert_same_sample(folder_of(seed, tmp_path), folder_of(seed, made))


def test_prompts_of_any_kind_are_safe(expand, shared, tmp_path):
    requested = [expand({"image.prompt": p, "audio.prompt": p[::-1]}, num_samples=1)[0] for p in ALL_PROMPTS]
    production.make(requested, tmp_path, options=options())
    assert {path.name for path in tmp_path.iterdir()} == {sample_id(settings) for settings in requested}
    for settings in requested:
        folder = tmp_path / sample_id(settings)
        for name in FILES[:-1]:
            assert from_record(embedded_settings.read_settings(folder / name))[0] == settings


def test_prompts_are_warned_of_once(expand, shared, tmp_path, caplog):
    requested = expand({"audio.prompt": "cat " * 75 + "dog"}, num_samples=9)  # two batches
    production.make(requested, tmp_path, options=options())
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and warnings[0].endswith("is longer than 75 tokens: 'dog' is cut off")


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_step": 3}, "there is no setting 'num_step'; Did you mean \"num_steps\""),
        ({"image.promt": "x"}, "there is no setting 'promt'; Did you mean \"prompt\""),
        ({"image.size": 3}, "there is no setting 'size'"),
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
def test_settings_that_do_not_fit_the_models_are_refused(change, message, refused, sampler, models, monkeypatch):
    outlines = {models["image.model"]: sampler.image, models["audio.model"]: sampler.audio}
    monkeypatch.setattr(pretrained, "abstract_model", lambda source, **kw: outlines[source])
    monkeypatch.setattr(load, "restore_weights", None)  # no weights are read before it is said
    assert message in refused(change)


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
    assert len(result.stderr.splitlines()) == 1 and 'Did you mean "num_steps"' in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_workdir_that_cannot_be_written_is_refused(small, sampler, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(production, "Sampler", None)  # nothing is loaded before
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=rf"workdir {workdir}: cannot be written"):
            sample.run(small(), workdir)


def test_a_sample_folder_that_cannot_be_made_is_named(small, shared, expand, tmp_path):
    (tmp_path / sample_id(expand()[0])).touch()
    with pytest.raises(UserError, match="cannot write: File exists"):
        sample.run(small(), tmp_path)


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
    status, _ = command(f"--config={CONFIG}", f"--workdir={tmp_path}", *flags)
    assert status == 0
    (record,) = tmp_path.glob("*/sample.json")
    assert json.loads(record.read_text())["image"]["prompt"] == prompt
