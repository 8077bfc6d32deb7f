"""Which images are generated, written and refused, without models."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from its_jax import gallery, video
from its_jax.colorize.settings import ColorSettings
from its_jax.errors import UserError
from its_jax.media import images
from its_jax.storage import files, locks, samples
from its_jax.storage.files import read_json
from tests.helpers.colorization import (
    HEIGHT,
    WIDTH,
    FakeColorizer,
    assert_gray_is_kept,
    colored_images,
    colorize,
    colorize_with_fake,
    write_samples,
)

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def color_settings(default_settings):
    """Makes settings; no model is loaded."""
    return lambda **changes: ColorSettings.from_dict(default_settings | changes)


@pytest.fixture(scope="module")
def colorized(color_settings, quick_programs, tmp_path_factory):
    """A folder with two colorized samples, which must not be changed."""
    folder = tmp_path_factory.mktemp("colorized")
    write_samples(folder)
    colorize_with_fake(color_settings(videos=1), folder)
    return folder


@pytest.fixture
def copied(colorized, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(colorized, tmp_path / "copied")


def modification_times(workdir):
    """Returns when each file was changed last, but for locks and the gallery."""
    paths = (path for path in workdir.rglob("*.*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in paths if ".locks" not in path.parts and path.name != gallery.PAGE}


def fail_to_load(*args):
    raise AssertionError("there is nothing to generate")


def test_each_trial_gets_an_image_and_a_record_and_the_first_one_a_video(colorized):
    for sample in samples.open_samples(colorized).values():
        assert sample.colorings == ("color_00", "color_01")
        names = {path.name for path in sample.path.iterdir()}
        assert {"color_00.mp4", "color_00.png", "color_01.png", "color_00.json"} <= names
        assert "color_01.mp4" not in names
        for name in sample.colorings:
            image, settings = images.read_png(sample.path / f"{name}.png")
            assert image.shape == (HEIGHT, WIDTH, 3)
            assert settings == read_json(sample.path / f"{name}.json")
    assert_gray_is_kept(colorized)
    assert len({image.tobytes() for image in colored_images(colorized).values()}) == 4


def test_finished_images_are_not_generated_again(copied, color_settings):
    before = modification_times(copied)
    colorize(color_settings(), copied, load=fail_to_load)
    assert modification_times(copied) == before


def test_only_missing_files_are_written(copied, color_settings):
    expected, before = colored_images(copied), modification_times(copied)
    first, second = samples.open_samples(copied).values()
    (first.path / "color_00.json").unlink()  # as after a kill just before it was written
    (second.path / "color_00.mp4").unlink()
    colorize_with_fake(color_settings(videos=1, trials=3), copied)
    after, found = modification_times(copied), colored_images(copied)
    new = {path for path in after if after[path] != before.get(path)}
    names = [f"color_0{n}.{kind}" for n, kind in ((0, "json"), (0, "mp4"), (0, "png"), (2, "json"), (2, "png"))]
    assert sorted(path.name for path in new if path.parent == first.path) == names
    assert sorted(path.name for path in new if path.parent == second.path) == [names[1], *names[3:]]
    for label, image in expected.items():
        np.testing.assert_array_equal(found[label], image)


def test_other_settings_add_images(copied, color_settings):
    before = modification_times(copied)
    colorize_with_fake(color_settings(prompt="cat", trials=1), copied)
    assert before.items() <= modification_times(copied).items()
    for sample in samples.open_samples(copied).values():
        assert sample.colorings == ("color_00", "color_01", "color_02")
        prompts = [sample.coloring_record(name)["colorize"]["prompt"] for name in sample.colorings]
        assert prompts[1:] == ["a colorful photo of trees", "cat"]


@pytest.mark.parametrize("harm", [lambda png: png.unlink(), lambda png: png.with_suffix(".json").write_text('{"id')])
def test_a_damaged_image_is_generated_again(copied, color_settings, harm):
    first, _ = samples.open_samples(copied).values()
    expected = colored_images(copied)
    harm(first.path / "color_00.png")
    gallery.write(copied)
    colorize_with_fake(color_settings(videos=1), copied)
    found = colored_images(copied)
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(found[first.id, "color_00"], expected[first.id, "color_00"])


def test_samples_in_tar_files_get_a_folder_of_colored_images(color_settings, tmp_path):
    write_samples(tmp_path, layout="shards")
    colorize_with_fake(color_settings(videos=1), tmp_path)
    assert_gray_is_kept(tmp_path)
    for sample in samples.open_samples(tmp_path).values():
        assert sample.colorings == ("color_00", "color_01")
        assert (tmp_path / samples.COLORS / sample.id / "color_00.mp4").exists()
        assert (tmp_path / "gallery" / sample.id / "color_01.png").exists()
        assert samples.open_sample(tmp_path / sample.id).colorings == sample.colorings


def test_the_gallery_shows_colored_images(colorized, opened):
    page = opened(colorized / gallery.PAGE)
    sources = page.evaluate("[...document.querySelectorAll('#views img')].map((i) => i.getAttribute('src'))")
    assert [source.rpartition("/")[2] for source in sources] == ["color_00.png", "color_01.png", "image.png"]
    captions = page.evaluate("[...document.querySelectorAll('#views figcaption')].map((e) => e.textContent)")
    assert captions[0] == "color_00: a colorful photo of trees"
    page.wait_for_timeout(300)
    widths = page.evaluate("[...document.querySelectorAll('#views img')].map((i) => i.naturalWidth)")
    assert widths == [WIDTH] * 3


def test_videos_of_other_images_can_be_made_later(copied):
    sample, _ = samples.open_samples(copied)
    assert video.write_video(copied / sample, "color_01") == copied / sample / "color_01.mp4"
    assert (copied / sample / "color_01.mp4").stat().st_size > 1000
    with pytest.raises(UserError, match="--color=color_07: .* it has color_00, color_01"):
        video.write_video(copied / sample, "color_07")


def test_a_batch_that_does_not_fit_in_memory_is_halved(workdir, color_settings):
    load = functools.partial(FakeColorizer, max_batch=1)
    colorize(color_settings(batch_size=0), workdir, load=load)
    assert len(colored_images(workdir)) == 4
    for sample in samples.open_samples(workdir).values():
        assert sample.coloring_record("color_00")["run"]["batch_size"] == 1
    with pytest.raises(UserError, match="colorize.batch_size=2 does not fit in memory; set it to 1 or less, or to 0"):
        colorize(color_settings(trials=4, batch_size=2), workdir, load=load)
    with pytest.raises(UserError, match="one sample on each device does not fit in memory"):
        colorize(color_settings(prompt="cat", batch_size=0), workdir, load=functools.partial(load, max_batch=0))


def test_models_that_do_not_fit_in_memory_are_reported(workdir, color_settings):
    def load(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with pytest.raises(UserError, match="colorize.dtype=float32: the models do not fit in memory; use one of fewer"):
        colorize(color_settings(), workdir, load=load)


def test_images_that_are_not_finite_are_not_written(workdir, color_settings):
    with pytest.raises(UserError, match="not colorized: .*/color_00: the model's result is not finite"):
        colorize(color_settings(), workdir, load=functools.partial(FakeColorizer, is_finite=False))
    assert not colored_images(workdir)


def test_an_interrupted_image_has_no_record(workdir, color_settings, monkeypatch):
    def interrupted(path, data, write=files.write):
        if path.name == "color_01.json":
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            colorize_with_fake(color_settings(), workdir)
    assert {name for _, name in colored_images(workdir)} <= {"color_00"}
    colorize_with_fake(color_settings(), workdir)
    assert len(colored_images(workdir)) == 4


def remove(path):
    path.unlink()


def damage(path):
    path.write_bytes(b"x")


def widen(path):
    images.write_png(path, np.zeros((HEIGHT, WIDTH + 1)), {})


def add_color(path):
    images.write_png(path, np.zeros((HEIGHT, WIDTH, 3)), {})


@pytest.mark.parametrize(
    "harm, message",
    [
        (remove, "spectrogram.png of {} cannot be read (No such file"),
        (damage, "spectrogram.png of {} cannot be read"),
        (widen, "spectrogram.png of {} has 14 x 51 pixels; its record says 14 x 50"),
        (add_color, "spectrogram.png of {} must be gray"),
    ],
)
def test_samples_with_a_wrong_spectrogram_are_named_and_all_others_colorized(workdir, color_settings, harm, message):
    bad, good = samples.open_samples(workdir).values()
    harm(bad.path / "spectrogram.png")
    with pytest.raises(UserError) as error:
        colorize_with_fake(color_settings(trials=1), workdir)
    assert str(error.value).startswith("not colorized: ") and message.format(bad.id) in str(error.value)
    assert samples.open_samples(workdir)[good.id].colorings == ("color_00",)


def test_samples_without_audio_for_a_video_are_named_and_all_others_colorized(workdir, color_settings):
    silent, good = samples.open_samples(workdir).values()
    (silent.path / "audio.wav").unlink()
    with pytest.raises(UserError, match=f"not colorized: .*audio.wav of {silent.id} cannot be"):
        colorize_with_fake(color_settings(trials=1, videos=1), workdir)
    finished = samples.open_samples(workdir)
    assert finished[good.id].colorings == ("color_00",) and finished[silent.id].colorings == ()


def test_folders_that_are_not_samples_are_left_out(workdir, color_settings, caplog):
    bad, good = samples.open_samples(workdir).values()
    (bad.path / "sample.json").write_text(json.dumps({**bad.record, "image": "a castle"}))
    colorize_with_fake(color_settings(trials=1), workdir)
    assert "is not the record of a sample of ours" in caplog.text
    assert samples.open_samples(workdir)[good.id].colorings == ("color_00",)


def test_a_selection_without_samples_is_refused(workdir, color_settings):
    first, _ = samples.open_samples(workdir)
    for select, message in {
        f"{first}x": f"--select: {workdir} has no finished sample {first}x; did you mean {first}?",
        "starred": "starred.txt: cannot be read (No such file or directory); export the starred ids",
        ",": "has no finished samples to colorize (--select=,)",
    }.items():
        with pytest.raises(UserError) as error:
            colorize(color_settings(), workdir, select, load=fail_to_load)
        assert message in str(error.value)


def test_two_processes_do_not_colorize_one_folder(workdir, color_settings):
    with (
        locks.hold(workdir, "colors"),
        pytest.raises(UserError, match="colors is being made in .*; wait for it, or stop it"),
    ):
        colorize(color_settings(), workdir, load=fail_to_load)
