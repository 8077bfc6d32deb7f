"""The public API with small random models: what it returns, what it loads and compiles, and what it refuses."""

import base64
import io
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile
from PIL import Image

from its_jax import Cancelled, Pipeline, UserError, pretrained
from its_jax import sample as sample_command
from its_jax.settings.parse import read_settings
from its_jax.settings.records import RECORD
from its_jax.storage.files import read_json
from its_jax.storage.samples import open_sample
from tests.helpers.small import CONFIG

ONE_DEVICE = jax.local_devices()[:1]  # With all eight, every batch would be filled up to eight samples.

pytestmark = pytest.mark.usefixtures("quick_programs")


class CountingLoader:
    """Loads models as `its_jax.pretrained` does, and lists the sources whose weights it reads."""

    check_components = staticmethod(pretrained.check_components)
    abstract_model = staticmethod(pretrained.abstract_model)

    def __init__(self):
        self.loaded = []

    def restore_weights(self, model, **options):
        self.loaded.append(model.source)
        return pretrained.restore_weights(model, **options)


@pytest.fixture(scope="module")
def loader():
    return CountingLoader()


@pytest.fixture(scope="module")
def pipe(small, loader):
    return Pipeline.from_settings(small().to_dict(), loader=loader, devices=ONE_DEVICE)


@pytest.fixture(scope="module")
def samples(pipe):
    return pipe(image="a cat", audio="bell", seed=3, num_samples=2)


def test_samples_are_arrays_of_the_documented_shapes(samples):
    assert [sample.seed for sample in samples] == [3, 4]
    for sample in samples:
        assert sample.image.shape == (12, 48, 3) and sample.spectrogram.shape == (12, 48)
        assert sample.audio.shape == (48 * 20,) and sample.sampling_rate == 16000
        assert {array.dtype for array in (sample.image, sample.spectrogram, sample.audio)} == {np.dtype("float32")}
        assert 0 <= sample.image.min() < sample.image.max() <= 1
        assert 0 <= sample.spectrogram.min() < sample.spectrogram.max() <= 1
        assert 0 < np.abs(sample.audio).max() <= 1


def test_arrays_are_what_the_files_hold(samples, tmp_path):
    folder = samples[0].save(tmp_path)
    assert folder == tmp_path / samples[0].id
    for name, array in (("image", samples[0].image), ("spectrogram", samples[0].spectrogram)):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"{name}.png"), np.float32) / 255, array)
    stored, rate = soundfile.read(folder / "audio.wav", dtype="float32")
    assert rate == samples[0].sampling_rate
    factor, raw = 10 ** (samples[0].gain_db / 20), np.rint(samples[0].audio * 2**15) / 2**15
    np.testing.assert_allclose(stored, raw * factor, rtol=0, atol=0.51 / 2**15)
    np.testing.assert_array_equal(open_sample(folder).read_audio()[0], raw)


def test_a_notebook_plays_what_the_file_holds(samples, tmp_path):
    shown = samples[0]._repr_html_().partition("data:audio/wav;base64,")[2].partition('"')[0]
    played, _ = soundfile.read(io.BytesIO(base64.b64decode(shown)))
    np.testing.assert_array_equal(played, soundfile.read(samples[0].save(tmp_path) / "audio.wav")[0])


def test_the_loudness_is_a_setting_of_a_call(pipe, samples, tmp_path):
    (raw,) = pipe(image="a cat", audio="bell", seed=3, loudness=None)
    np.testing.assert_array_equal(raw.audio, samples[0].audio)
    assert raw.id == samples[0].id and raw.gain_db == 0 != samples[0].gain_db
    stored, _ = soundfile.read(raw.save(tmp_path) / "audio.wav", dtype="float32")
    np.testing.assert_allclose(stored, raw.audio, rtol=0, atol=0.51 / 32768)
    with pytest.raises(UserError, match="loudness=3.0: must be -40 to 0 LUFS, or None"):
        pipe(image="a cat", loudness=3)


def test_crop_image_is_applied(pipe):
    (sample,) = pipe(image="a cat", crop_image=True)
    assert sample.image.shape == (12, 16, 3) and sample.spectrogram.shape == (12, 16)
    assert len(sample.audio) == 960 - int(32 / 48 * 960)


def test_save_writes_what_the_command_writes(small, pipe, tmp_path):
    config = small({"num_samples": 1, "video": True})
    sample_command.run(config, tmp_path / "command", Pipeline(devices=ONE_DEVICE))
    (sample,) = pipe(seed=config.seed, video=True)
    sample.save(tmp_path / "api")
    (by_command,), (by_api,) = ((tmp_path / name).glob("*/") for name in ("command", "api"))
    assert by_command.name == by_api.name
    assert {path.name for path in by_command.iterdir()} == {path.name for path in by_api.iterdir()}
    for name in ("image.png", "spectrogram.png"):
        np.testing.assert_array_equal(Image.open(by_command / name), Image.open(by_api / name))
    records = [read_json(folder / RECORD) for folder in (by_command, by_api)]
    for record in records:
        record.pop("seconds")
    assert records[0] == records[1]


def test_another_shape_compiles_but_loads_nothing(pipe, loader, samples):
    before = list(loader.loaded)
    assert len(before) == len(set(before)) == 2
    (sample,) = pipe(image="a cat", width=96)
    assert sample.image.shape == (12, 96, 3)
    assert loader.loaded == before


def test_the_same_shape_compiles_once(pipe, samples):
    (again,) = pipe(image="a dog", seed=3)
    (other,) = pipe(image="a cat", seed=3)
    assert again.batch_size == other.batch_size
    assert again.seconds["compile"] == other.seconds["compile"]  # of one program


def test_prompts_are_paired_and_each_pair_gets_all_seeds(pipe):
    samples = pipe(image=["cats", "dogs"], audio=["rain", "bell"], seed=7, num_samples=2)
    found = [(s.settings.terms["image"].prompt, s.settings.terms["audio"].prompt, s.seed) for s in samples]
    assert found == [("cats", "rain", 7), ("cats", "rain", 8), ("dogs", "bell", 7), ("dogs", "bell", 8)]


def test_one_prompt_serves_all_and_seeds_may_be_a_list(pipe):
    samples = pipe(image=["cats", "dogs"], audio="rain", seed=[5, 2])
    found = [(s.settings.terms["image"].prompt, s.settings.terms["audio"].prompt, s.seed) for s in samples]
    assert found == [("cats", "rain", 5), ("cats", "rain", 2), ("dogs", "rain", 5), ("dogs", "rain", 2)]


def test_samples_that_cannot_share_a_batch_keep_their_order(pipe):
    """Only one of these terms has a negative prompt, so that two programs take part."""
    alone = pipe(image={"prompt": "cats", "guidance_scale": 1.0}, seed=1)[0]
    assert alone.settings.terms["image"].guidance_scale == 1.0
    assert alone.fault is None


def test_a_term_takes_a_dictionary_of_its_settings(pipe):
    (sample,) = pipe(image="cats", audio={"prompt": "rain", "weight": 0.4}, num_steps=3)
    term = sample.settings.terms["audio"]
    assert (term.prompt, term.weight) == ("rain", 0.4) and sample.settings.num_steps == 3


def test_a_call_does_not_change_the_next_one(pipe, samples):
    pipe(image={"prompt": "cats", "weight": 0.9}, num_steps=3)
    (sample,) = pipe(image="a cat", audio="bell", seed=3)
    assert sample.settings == samples[0].settings


def test_numpy_numbers_are_numbers(pipe):
    (sample,) = pipe(image="cats", seed=np.int64(4), num_steps=np.int32(3), audio={"weight": np.float32(0.5)})
    assert sample.seed == 4 and sample.settings.terms["audio"].weight == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"widht": 96}, "there is no setting widht; did you mean width?"),
        ({"image": {"promt": "x"}}, "there is no setting image.promt; did you mean image.prompt?"),
        ({"imge": {"prompt": "x"}}, "there is no setting imge; did you mean image?"),
        ({"width": "wide"}, "width='wide': must be of type int"),
        ({"width": 47}, "width=47: must be a multiple of 2"),
        ({"image": 3}, "image.prompt=3: must be of type str"),
        ({"image": ["a", "b"], "audio": ["c", "d", "e"]}, "image.prompt has 2 and audio.prompt has 3 prompts"),
        ({"image": []}, "image.prompt has 0 prompts"),
        ({"num_samples": 0}, "num_samples=0: must be 1 or more"),
        ({"num_samples": 3, "seed": [1, 2]}, "num_samples=3: must be the number of seeds, 2"),
        ({"seed": -1}, "seed=-1: seeds must be 0 to"),
        ({"seed": "x"}, "seed='x': must be an integer or a list of integers"),
        ({"seed": []}, "must be an integer or a list of integers"),
        ({"callback": 3}, "callback=3: must be a function of step, num_steps and preview"),
        ({"dtype": "double"}, "dtype='double' is not known here; choose one of float32, bfloat16, float16"),
        ({"dtype": np.float64}, "dtype='float64' is not known here"),
        ({"solver": "heun"}, "solver='heun' is not known here; choose one of ddim"),
        ({"image": {"model": "/nowhere/at/all"}}, "/nowhere/at/all"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(pipe, call, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        pipe(**call)
    assert "\n" not in str(error.value)


def test_the_command_line_gives_the_same_message(pipe, tmp_path):
    for flag, call in (
        ("num_step=3", {"num_step": 3}),
        ("image.promt=x", {"image": {"promt": "x"}}),
        ("image.size=3", {"image": {"size": 3}}),
    ):
        with pytest.raises(UserError) as error:
            pipe(**call)
        command = [sys.executable, "-m", "its_jax.sample", f"--config={CONFIG}", f"--workdir={tmp_path}"]
        done = subprocess.run([*command, f"--config.{flag}"], capture_output=True, text=True)
        assert done.stderr.strip() == f"error: {error.value}"


@pytest.mark.parametrize("method", ["fused", "imprint", "sds"])
def test_the_callback_sees_every_step_and_a_preview(pipe, method):
    steps = []

    def watch(step, num_steps, preview):
        steps.append((step, num_steps))
        if step == 1:
            image = preview()[0]
            assert image.shape == (12, 48, 3) and 0 <= image.min() <= image.max() <= 1

    pipe(image="a cat", method=method, callback=watch)
    total = 8 if method == "imprint" else 4
    assert steps == [(step, total) for step in range(1, total + 1)]


def test_the_callback_is_called_20_times_in_a_long_run(pipe):
    steps = []
    pipe(image="a cat", num_steps=50, callback=lambda step, *_: steps.append(step))
    assert len(steps) == 20 and steps == sorted(steps) and steps[-1] == 50


def test_cancelling_keeps_the_batches_before_and_the_pipeline(pipe):
    calls = []

    def cancel(step, num_steps, preview):
        calls.append(step)
        if len(calls) == 6:  # in the second batch
            raise Cancelled

    with pytest.raises(Cancelled) as cancelled:
        pipe(image="a cat", num_samples=9, batch_size=8, callback=cancel)
    assert [sample.seed for sample in cancelled.value.samples] == list(range(8))
    assert len(pipe(image="a cat")) == 1


def test_a_notebook_shows_an_image_and_a_player(samples):
    shown = samples[0]._repr_html_()
    image, sound = (base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)\"", shown))
    assert image.startswith(b"\x89PNG") and sound.startswith(b"RIFF") and "a cat | bell" in shown


def test_a_preview_is_cropped_as_the_image_is(pipe):
    seen = []
    (sample,) = pipe(image="a cat", seed=3, crop_image=True, callback=lambda *args: seen.append(args[2]()[0]))
    assert {image.shape for image in seen} == {sample.image.shape} == {(12, 16, 3)}


def test_a_requested_batch_size_is_that_of_an_earlier_call_only_if_it_was_requested(small):
    pipe = Pipeline(small().to_dict(), devices=ONE_DEVICE)
    settings, _ = read_settings(small(batch_size=2).to_dict())
    requested = pipe.compile(settings[0], pending=2, batch_size=2)
    chosen = pipe.compile(settings[0], pending=2, batch_size=0)
    assert requested is not chosen and requested is pipe.compile(settings[0], pending=2, batch_size=2)
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")
    chosen.check_can_shrink(error)
    with pytest.raises(UserError, match="batch_size=2 does not fit in memory; set it to 1 or less"):
        requested.check_can_shrink(error)


def test_the_first_samples_record_how_long_loading_took(small):
    pipe = Pipeline.from_settings(small().to_dict(), devices=ONE_DEVICE)
    assert pipe(seed=3)[0].seconds["load"] > 1e-3
