"""Samples are written while the next batch is generated, and whatever goes wrong costs only itself."""

import re
import threading

import jax
import pytest

from its_jax import Pipeline
from its_jax.errors import UserError
from its_jax.generate.samples import write_samples
from its_jax.media import embedded_settings
from its_jax.settings.ids import sample_id
from its_jax.settings.records import from_record
from its_jax.settings.schema import RunOptions
from its_jax.storage import files
from its_jax.storage.files import read_json
from tests.helpers.fixed_pipeline import FixedPipeline, Wrapped
from tests.helpers.sample_settings import replace_in_term

FILES = ["audio.wav", "image.png", "sample.json", "spectrogram.png"]
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
def program(expand):
    requested = expand()
    return Pipeline().compile(requested[0], pending=len(requested), batch_size=2)


def options(batch_size=0):
    return RunOptions(num_samples=1, batch_size=batch_size, devices_per_sample=1, video=False)


def write(program, requested, workdir, **more):
    return write_samples(FixedPipeline(program), requested, workdir, options(**more))


def test_files_are_written_while_the_next_batch_is_generated(expand, program, tmp_path, monkeypatch):
    """The writer of the first batch waits until the second batch has begun."""
    second_began, written, write_file = threading.Event(), [], files.write

    class Watched(Wrapped):
        def __call__(self, batch, *args, **more):
            if batch[0].seed >= 8:
                second_began.set()
            return super().__call__(batch, *args, **more)

    def waiting(path, data):
        if path.name == "sample.json":
            seed = int(re.search(r"_(\d+)_\w+$", path.parent.name)[1])
            assert seed >= 8 or second_began.wait(60)
            written.append(seed)
        write_file(path, data)

    monkeypatch.setattr(files, "write", waiting)
    write(Watched(program), expand(num_samples=16), tmp_path)
    assert sorted(written) == list(range(16))


def test_batches_follow_one_another(expand, program, tmp_path):
    requested = expand(num_samples=19)
    write(program, requested, tmp_path)
    records = [read_json(tmp_path / sample_id(settings) / "sample.json") for settings in requested]
    assert [record["run"]["position"] for record in records] == [*range(8), *range(8), *range(3)]


class Scarce(Wrapped):
    """Runs out of memory after two steps of a batch of more than two samples, on one device."""

    def __call__(self, batch, on_progress, **more):
        def fail(progress):
            on_progress(progress)
            if self.batch_size > 2 and progress.step == 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")

        return super().__call__(batch, fail, **more)


def test_a_batch_that_does_not_fit_in_memory_is_halved_and_nothing_is_lost(expand, tmp_path, caplog, capsys):
    requested = expand(num_samples=5)
    one_device = Pipeline(devices=jax.local_devices()[:1])
    program = one_device.compile(requested[0], pending=5)
    assert program.batch_size == 4
    write(Scarce(program), requested, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {sample_id(settings) for settings in requested}
    records = [read_json(tmp_path / sample_id(settings) / "sample.json") for settings in requested]
    assert [record["run"]["batch_size"] for record in records] == [2] * 5
    assert [record["run"]["position"] for record in records] == [0, 1, 0, 1, 0]
    assert "20/20" in capsys.readouterr().err  # the progress bar ends at 5 samples of 4 steps
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["a batch of 4 does not fit in memory; continuing with 2"]


def test_a_requested_batch_size_is_not_halved(expand, tmp_path):
    requested = expand(num_samples=5)
    program = Pipeline(devices=jax.local_devices()[:1]).compile(requested[0], pending=5, batch_size=3)
    with pytest.raises(UserError, match="batch_size=3 does not fit in memory; set it to 1 or less, or to 0"):
        write(Scarce(program), requested, tmp_path, batch_size=3)


def test_other_errors_of_a_batch_are_not_taken_for_a_lack_of_memory(expand, program, tmp_path):
    class Broken(Wrapped):
        def __call__(self, *_, **__):
            raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: broken"):
        write(Broken(program), expand(), tmp_path)


def test_samples_that_are_not_finite_are_named_and_the_others_written(expand, program, tmp_path):
    requested = expand()
    requested[1] = replace_in_term(requested[1], "image", guidance_scale=3e38)  # active from step 1 on
    with pytest.raises(UserError) as caught:
        write(program, requested, tmp_path)
    message = f"not written: {sample_id(requested[1])}: the latents are not finite from step [12] on"
    assert re.fullmatch(message, str(caught.value))
    assert {path.name for path in tmp_path.iterdir()} == {sample_id(requested[0]), sample_id(requested[2])}
    for folder in tmp_path.iterdir():
        assert sorted(path.name for path in folder.iterdir()) == FILES


def test_samples_that_are_not_finite_are_named_when_the_disk_is_full_too(expand, program, tmp_path, monkeypatch):
    def full(*_):
        raise UserError("cannot write: No space left on device")

    requested = expand()
    requested[1] = replace_in_term(requested[1], "image", guidance_scale=3e38)
    monkeypatch.setattr(files, "write", full)
    with pytest.raises(UserError, match=f"No space left on device; {sample_id(requested[1])}: the latents are not"):
        write(program, requested, tmp_path)


def test_prompts_of_any_kind_are_safe(expand, program, tmp_path):
    requested = [expand({"image.prompt": p, "audio.prompt": p[::-1]}, num_samples=1)[0] for p in ALL_PROMPTS]
    write(program, requested, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {sample_id(settings) for settings in requested}
    for settings in requested:
        folder = tmp_path / sample_id(settings)
        for name in FILES:
            assert from_record(embedded_settings.read_settings(folder / name))[0] == settings


def test_each_warning_about_a_prompt_comes_once(expand, program, tmp_path, caplog):
    requested = expand({"audio.prompt": "cat " * 75 + "dog"}, num_samples=9)  # two batches
    write(program, requested, tmp_path)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and warnings[0].endswith("is longer than 75 tokens: 'dog' is cut off")
