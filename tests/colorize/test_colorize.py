"""Colouring finished samples with small random models: what is written, what is made again, what is refused."""

import json
import pathlib
import re
import runpy
import shutil
import sys

import diffusers
import jax
import numpy as np
import pytest
import torch
from absl import app
from absl.testing import flagsaver
from jax.sharding import AxisType

from convert import conversion
from its_jax import gallery, pretrained, video
from its_jax.checkpoints import load
from its_jax.colorize import __main__, colorizers, factorized, luminance, run
from its_jax.colorize.settings import Settings
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.media import images
from its_jax.pipeline import placement, t5_embeddings
from its_jax.runtime import cli
from its_jax.storage import files, locks, samples
from its_jax.storage.files import read_json
from tests.helpers import authors_color as authors_colour
from tests.helpers import finished_samples as finished
from tests.helpers import model_folder, pixel_folder
from tests.helpers.authors_color import jax_side, torch_side
from tests.helpers.collectives import COLLECTIVES

pytestmark = pytest.mark.usefixtures("quick_programs")

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "colorize.py"
HEIGHT, WIDTH = 14, 50  # no multiples of what the models take
STEPS = {"num_steps": 3, "start_step": 1, "latent_start_step": 1}
SMALL = STEPS | {"trials": 2, "window": 0, "guidance_scale": 2.0, "videos": 0, "batch_size": 2}
CANVAS = {"width": WIDTH, "height": HEIGHT}


@pytest.fixture(scope="module", autouse=True)
def few_devices(quick_programs):
    """A batch is a multiple of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "data_mesh", lambda: mesh_of(1))
        yield


def mesh_of(count):
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


@pytest.fixture(scope="module")
def pixel_twins(tmp_path_factory):
    """Both stages: folder, and PyTorch modules by part."""
    folder = tmp_path_factory.mktemp("pixel")
    return {stage: (folder / f"{stage}", pixel_folder.build(folder / f"{stage}", stage)) for stage in (1, 2)}


@pytest.fixture(scope="module")
def pixel_models(pixel_twins, tmp_path_factory):
    """The same, converted."""
    out = tmp_path_factory.mktemp("converted")
    return {
        f"stage_{stage}": str(conversion.convert(str(folder), out / f"{stage}"))
        for stage, (folder, _) in pixel_twins.items()
    }


@pytest.fixture(scope="module")
def latent_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    model_folder.build(folder / "source", vocoder=False)
    return str(conversion.convert(str(folder / "source"), folder / "model"))


@pytest.fixture(scope="module")
def how(pixel_models, latent_model):
    """Makes settings."""
    config = runpy.run_path(str(CONFIG))["get_config"]()

    def get(**change):
        raw = config.colorize.to_dict() | SMALL | pixel_models | {"latent_model": latent_model} | change
        return Settings.read(raw)

    return get


def write_samples(folder, count=2, layout="folders", **change):
    made = [finished.record(CANVAS | {"seed": 1 + seed} | change) for seed in range(count)]
    return finished.write(folder, made, layout, width=WIDTH, height=HEIGHT, seconds=0.3)


@pytest.fixture
def workdir(tmp_path):
    """Two finished samples."""
    write_samples(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def coloured(how, tmp_path_factory):
    """Two samples, coloured by both stages."""
    folder = tmp_path_factory.mktemp("coloured")
    write_samples(folder)
    run.run(how(videos=1), folder, "all")
    return folder


def state_of(workdir):
    """File -> time of its last change."""
    found = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.*") if path.is_file()}
    return {path: at for path, at in found.items() if ".locks" not in path.parts and path.name != gallery.PAGE}


def pictures_of(workdir):
    """Label -> picture, of all samples."""
    return {
        (sample.id, name): sample.read_image(name)
        for sample in samples.open_samples(workdir).values()
        for name in sample.colorings
    }


# What is made


def test_files_and_the_grey(coloured):
    for sample in samples.open_samples(coloured).values():
        assert sample.colorings == ("color_00", "color_01")
        names = {path.name for path in sample.path.iterdir()}
        assert {"color_00.mp4", "color_00.png", "color_01.png", "color_00.json"} <= names
        assert "color_01.mp4" not in names
        for name in sample.colorings:
            picture, settings = images.read_png(sample.path / f"{name}.png")
            assert picture.shape == (HEIGHT, WIDTH, 3) and np.ptp(picture, axis=-1).max() > 0.1
            assert np.abs(picture.mean(axis=-1) - sample.read_image()).max() <= 1 / 255
            assert settings == read_json(sample.path / f"{name}.json")
    pictures = list(pictures_of(coloured).values())
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_the_record_tells_what_made_it(coloured, how, pixel_models):
    (sample, _) = samples.open_samples(coloured).values()
    record = json.loads(sample.read("color_01.json"))
    assert record["id"] == sample.id and record["run"]["platform"] == "cpu"
    told = record["colorize"]
    assert told["prompt"] == "a colorful photo of trees" and told["seed"] == 1 and told["noise_level"] == 50
    assert told["stage_1"] == pixel_models["stage_1"]
    identities = {
        name: pretrained.abstract_model(source, components=("unet",), dtype="float32").identity
        for name, source in pixel_models.items()
    }
    assert record["models"] == identities
    assert record["versions"]["jax"] == jax.__version__


def test_a_picture_is_made_alone_as_among_others(coloured, how, workdir):
    """Of its own seed only: not of the others of its batch, nor its place among them."""
    last = sorted(samples.open_samples(workdir))[-1]
    run.run(how(trials=1, seed=1), workdir, last)
    ((_, found),) = pictures_of(workdir).items()
    expected = samples.open_samples(coloured)[last].read_image("color_01")
    assert np.abs(found - expected).max() <= 2 / 255


def test_what_is_there_is_not_made_again(coloured, how, tmp_path, monkeypatch):
    workdir = shutil.copytree(coloured, tmp_path / "out")
    before = state_of(workdir)
    monkeypatch.setattr(run, "PixelPainter", None)
    run.run(how(), workdir, "all")
    assert state_of(workdir) == before


def test_only_what_is_missing_is_made(coloured, how, tmp_path):
    workdir = shutil.copytree(coloured, tmp_path / "out")
    expected, before = pictures_of(workdir), state_of(workdir)
    first, second = samples.open_samples(workdir).values()
    (first.path / "color_00.json").unlink()  # killed just before it was written
    (second.path / "color_00.mp4").unlink()
    run.run(how(videos=1, trials=3), workdir, "all")
    after, found = state_of(workdir), pictures_of(workdir)
    new = {path for path in after if after[path] != before.get(path)}
    names = [f"color_0{n}.{kind}" for n, kind in ((0, "json"), (0, "mp4"), (0, "png"), (2, "json"), (2, "png"))]
    assert sorted(path.name for path in new if path.parent == first.path) == names
    assert sorted(path.name for path in new if path.parent == second.path) == [names[1], *names[3:]]
    for label, picture in expected.items():
        assert np.abs(found[label] - picture).max() <= 2 / 255


def test_other_settings_add_pictures(coloured, how, tmp_path):
    workdir = shutil.copytree(coloured, tmp_path / "out")
    before = state_of(workdir)
    run.run(how(prompt="cat", trials=1), workdir, "all")
    assert before.items() <= state_of(workdir).items()
    for sample in samples.open_samples(workdir).values():
        assert sample.colorings == ("color_00", "color_01", "color_02")
        assert [sample.coloring_record(name)["colorize"]["prompt"] for name in sample.colorings][1:] == [
            "a colorful photo of trees",
            "cat",
        ]


def test_stage_one_alone_and_a_batch_of_one(workdir, how):
    run.run(how(stage_2="", batch_size=1), workdir, "all")
    assert len(pictures_of(workdir)) == 4
    for sample in samples.open_samples(workdir).values():
        assert json.loads(sample.read("color_00.json"))["run"]["batch_size"] == 1
        for name in sample.colorings:
            assert np.abs(sample.read_image(name).mean(axis=-1) - sample.read_image()).max() <= 1 / 255


def test_a_loop_in_windows(how, tmp_path):
    made = [finished.record({"width": 64, "height": 16, "wrap": True})]
    finished.write(tmp_path, made, width=64, height=16, seconds=0.3)
    run.run(how(trials=1, window=32, stage_2=""), tmp_path, "all")
    for sample in samples.open_samples(tmp_path).values():
        assert np.abs(sample.read_image("color_00").mean(axis=-1) - sample.read_image()).max() <= 1 / 255


def test_by_a_latent_model(workdir, how):
    run.run(how(method="latent"), workdir, "all")
    found = pictures_of(workdir)
    assert len(found) == 4
    for sample in samples.open_samples(workdir).values():
        record = json.loads(sample.read("color_00.json"))
        assert record["models"].keys() == {"latent_model"} and "stage_1" not in record["colorize"]
        for name in sample.colorings:
            assert np.abs(sample.read_image(name).mean(axis=-1) - sample.read_image()).max() <= 1 / 255


def test_a_latent_model_that_is_not_named_is_the_one_that_made_the_sample(how):
    of = lambda **change: how(method="latent", **change).of_trial(finished.record(), 0)  # noqa: E731
    assert of(latent_model="")["latent_model"] == "tiny/image" and of(latent_model="x")["latent_model"] == "x"


def test_samples_in_tar_files(how, tmp_path):
    write_samples(tmp_path, layout="shards")
    run.run(how(videos=1), tmp_path, "all")
    for sample in samples.open_samples(tmp_path).values():
        assert sample.colorings == ("color_00", "color_01")
        assert np.abs(sample.read_image("color_00").mean(axis=-1) - sample.read_image()).max() <= 1 / 255
        assert (tmp_path / samples.COLORS / sample.id / "color_00.mp4").exists()
        assert (tmp_path / "gallery" / sample.id / "color_01.png").exists()
        assert samples.open_sample(tmp_path / sample.id).colorings == sample.colorings


def test_the_gallery_shows_them(coloured, opened):
    page = opened(coloured / gallery.PAGE)
    shown = page.evaluate("[...document.querySelectorAll('#views img')].map((i) => i.getAttribute('src'))")
    assert [pathlib.Path(source).name for source in shown] == ["color_00.png", "color_01.png", "image.png"]
    told = page.evaluate("[...document.querySelectorAll('#views figcaption')].map((e) => e.textContent)")
    assert told[0] == "color_00: a colorful photo of trees"
    page.wait_for_timeout(300)
    widths = page.evaluate("[...document.querySelectorAll('#views img')].map((i) => i.naturalWidth)")
    assert widths == [WIDTH] * 3


def test_a_video_of_any_of_them_can_be_made_later(coloured, tmp_path):
    workdir = shutil.copytree(coloured, tmp_path / "out")
    (sample, _) = samples.open_samples(workdir)
    assert video.write_video(workdir / sample, "color_01") == workdir / sample / "color_01.mp4"
    assert (workdir / sample / "color_01.mp4").stat().st_size > 1000
    with pytest.raises(UserError, match="--color=color_07: .* it has color_00, color_01"):
        video.write_video(workdir / sample, "color_07")


# Programs


def test_both_stages_are_the_authors_procedure(how, pixel_twins, monkeypatch, highest_precision):
    """Texts, guidance, sizes, noise of the small picture and steps, with PyTorch's modules."""
    settings = how()
    painter = colorizers.FactorizedColorizer(settings, ["cat", "bell"])
    greys, seeds = np.random.default_rng(0).uniform(size=(2, 16, 32)).astype(np.float32), np.array([3, 4], np.uint32)
    found = painter(greys, ["cat", "bell"], seeds)

    text = [[painter._embedded[name] for name in pair] for pair in (["", "cat"], ["", "bell"])]
    text = torch.from_numpy(np.array(text))
    signed = torch_side(greys[..., None] * 2 - 1)

    def stage(number, grey, **more):
        unet = pixel_twins[number][1]["unet"]

        def ask(x, t, which):
            level = {"class_labels": torch.full((2,), settings.noise_level)} if number == 2 else {}
            with torch.no_grad():
                predicted = unet(torch_side(x), torch.full((2,), t), text[:, which], **level).sample
            return jax_side(predicted)

        scale = np.full(2, settings.guidance_scale, np.float32)
        args = jax_side(grey), ask, scale, seeds, settings.num_steps, monkeypatch
        return torch_side(authors_colour.stage(number, *args, **more))

    small = stage(1, torch.nn.functional.avg_pool2d(signed, 4), start=settings.start_step)
    small = torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear", align_corners=True)
    noising = diffusers.DDPMScheduler.from_pretrained(pixel_twins[2][0], subfolder="image_noising_scheduler")
    noise = torch_side(factorized.draw(seeds, 2, factorized.SMALL, 0, (16, 32, 3)))
    small = noising.add_noise(small, noise, torch.full((2,), settings.noise_level))
    x = jax_side(stage(2, signed, small=small))
    expected = np.asarray(luminance.clip_to_gamut(greys[..., None], x / 2 + 0.5))
    assert np.ptp(expected, axis=-1).mean() > 0.05
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_devices_do_not_communicate(how, monkeypatch):
    """And what is compiled for one batch serves the next."""
    lowered = []

    def each(self, function, specs, original=colorizers.Alone.each):
        jitted = original(self, function, specs)

        def call(*args):
            lowered.append((jitted, args))
            return jitted(*args)

        return call

    monkeypatch.setattr(colorizers.Alone, "each", each)
    monkeypatch.setattr(placement, "data_mesh", lambda: mesh_of(2))
    painter = colorizers.FactorizedColorizer(how(stage_2=""), ["cat"])
    assert painter.at_once == 2
    greys = np.random.default_rng(0).uniform(size=(2, 16, 32)).astype(np.float32)
    painter(greys, ["cat"] * 2, range(2))
    assert len(lowered) >= 5
    for jitted, args in lowered:
        assert not re.findall(COLLECTIVES, jitted.lower(*args).compile().as_text())
        assert jitted._cache_size() == 1


@pytest.mark.parametrize("view", ["rotate_180", "block_rearrange"])
def test_what_is_seen_through_a_view_is_coloured_as_it_is_seen(how, view):
    painter = colorizers.FactorizedColorizer(how(stage_2=""), ["cat"])
    greys = np.random.default_rng(0).uniform(size=(2, 16, 64)).astype(np.float32)
    found = painter(greys, ["cat"] * 2, [0, 1], view=view)
    seen = painter(np.asarray(VIEWS[view].apply(greys[..., None]))[..., 0], ["cat"] * 2, [0, 1])
    np.testing.assert_array_equal(VIEWS[view].apply(found), seen)
    np.testing.assert_allclose(found.mean(axis=-1), greys, rtol=0, atol=1e-5)


def test_t5_reads_a_prompt_once(pixel_models, how, monkeypatch, tmp_path):
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path))
    outline = pretrained.abstract_model(pixel_models["stage_1"], components=("text_encoder", "unet"), dtype="float32")
    found = t5_embeddings.embed(outline, ["cat", "bell", "cat"])
    assert len(list((tmp_path / t5_embeddings.FOLDER).iterdir())) == 2
    filled = []
    monkeypatch.setattr(
        load, "restore_weights", lambda model, fill=load.restore_weights: filled.append(model) or fill(model)
    )
    again = t5_embeddings.embed(outline, ["cat", "bell"])
    assert not filled
    np.testing.assert_array_equal(found["cat"], again["cat"])
    assert found["cat"].shape == (77, pixel_folder.WIDTH) and np.abs(found["cat"] - found["bell"]).max() > 0.1
    damaged, *_ = (tmp_path / t5_embeddings.FOLDER).iterdir()
    damaged.write_bytes(b"no array")
    again = t5_embeddings.embed(outline, ["cat", "bell"])
    assert len(filled) == 1
    np.testing.assert_array_equal(found["cat"], again["cat"])
    np.testing.assert_array_equal(found["bell"], again["bell"])


def test_a_batch_beyond_the_memory_is_halved(workdir, how, monkeypatch):
    original = colorizers.FactorizedColorizer.__call__

    def scarce(self, greys, *args, **kw):
        if len(greys) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return original(self, greys, *args, **kw)

    monkeypatch.setattr(colorizers.FactorizedColorizer, "__call__", scarce)
    run.run(how(batch_size=0, stage_2=""), workdir, "all")
    assert len(pictures_of(workdir)) == 4
    with pytest.raises(UserError, match="colorize.batch_size=2 is beyond the memory"):
        run.run(how(trials=4, batch_size=2, stage_2=""), workdir, "all")


# Bad input


@pytest.fixture
def command(monkeypatch, capsys, pixel_models, latent_model):
    """Runs the command in this process: its exit status, and what it says on stderr, by line."""

    def call(workdir, *flags, **change):
        capsys.readouterr()
        settings = SMALL | pixel_models | {"latent_model": latent_model} | change
        argv = ["colorize", f"--workdir={workdir}", *flags]
        argv += [f"--config.colorize.{name}={value}" for name, value in settings.items()]
        monkeypatch.setattr(sys, "argv", argv)  # config_flags looks there
        monkeypatch.setattr(app, "run", lambda main, flags_parser: main(flags_parser(sys.argv)))
        status = 0
        with flagsaver.flagsaver():
            try:
                cli.run(__main__.main, config=CONFIG)
            except SystemExit as stop:
                status = stop.code
        return status, [line for line in capsys.readouterr().err.splitlines() if line and "colour:" not in line]

    return call


@pytest.fixture
def refused(command, workdir):
    """The one line that is said."""

    def call(*flags, **change):
        before = state_of(workdir)
        status, lines = command(workdir, *flags, **change)
        assert status == 2 and len(lines) == 1, lines
        assert state_of(workdir) == before
        return lines[0].removeprefix("error: ")

    return call


def test_the_command_colours_what_is_selected(command, workdir):
    first, second = samples.open_samples(workdir)
    assert command(workdir, f"--select={first}", trials=1) == (0, [])
    (workdir / "starred.txt").write_text(f"{second}\n")
    assert command(workdir, "--select=starred", trials=1, prompt="a bell") == (0, [])
    assert pictures_of(workdir).keys() == {(first, "color_00"), (second, "color_00")}
    assert samples.open_samples(workdir)[second].coloring_record("color_00")["colorize"]["prompt"] == "a bell"


@pytest.mark.parametrize(
    "change, told",
    [
        ({"method": "latents"}, "colorize.method='latents' is not known here; choose one of factorized, latent"),
        ({"prompt": " "}, "colorize.prompt=' ': must not be empty"),
        ({"trials": 0}, "colorize.trials=0: must be 1 or more"),
        ({"start_step": 3}, "colorize.start_step=3: leaves none of 3 steps"),
        ({"method": "latent", "latent_start_step": 4}, "colorize.latent_start_step=4: leaves none of 3 steps"),
        ({"noise_level": -1}, "colorize.noise_level=-1: must not be negative"),
        ({"noise_level": 1000}, "colorize.noise_level=1000: must be 0 to 999, a timestep of"),
        ({"num_steps": 1001}, "num_steps=1001: must be 1 to 1000"),
        ({"guidance_scale": "nan"}, "colorize.guidance_scale=nan: must be a finite number"),
        ({"seed": 2**32 - 1}, "seed=4294967296: seeds must be 0 to"),
        ({"dtype": "int8"}, "colorize.dtype='int8' is not known here; choose one of float32"),
        ({"stage_1": ""}, "colorize.stage_1='': must name a model of pixels"),
        ({"window": 12}, "colorize.window=12: must be a multiple of 8, as these models need it"),
        ({"promt": "a"}, "there is no setting 'promt'; Did you mean \"prompt\""),
    ],
)
def test_bad_settings(refused, change, told):
    assert told in refused(**change)


def test_a_wrong_stage_in_a_wrong_place(refused, pixel_models, latent_model):
    one, two = pixel_models["stage_1"], pixel_models["stage_2"]
    assert (
        refused(stage_1=two) == f"colorize.stage_1={two}: is a model of the second stage; give it as colorize.stage_2"
    )
    assert refused(stage_2=one) == f"colorize.stage_2={one}: is a model of the first stage; give it as colorize.stage_1"
    for name in ("stage_1", "stage_2"):
        assert f"colorize.{name}={latent_model}: is a model of latents, not of pixels" in refused(
            **{name: latent_model}
        )
    assert f"colorize.latent_model={one}: is a model of pixels" in refused(method="latent", latent_model=one)


def test_a_stage_for_other_texts(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(pixel_folder.STAGES, 2, pixel_folder.STAGES[2] | {"encoder_hid_dim": 48})
    pixel_folder.build(tmp_path / "wide", 2)
    assert "takes texts of width 48; the text encoder of" in refused(stage_2=tmp_path / "wide")


def test_a_prompt_beyond_77_tokens_is_cut_with_a_warning(command, workdir):
    status, lines = command(workdir, prompt="cat " * 80, trials=1)
    assert status == 0 and len(lines) == 1
    assert "is longer than 76 tokens: 'cat cat cat cat' is cut off" in lines[0]


def spoil_shape(folder, sample):
    images.write_png(folder / "spectrogram.png", np.zeros((HEIGHT, WIDTH + 1)), {})


def spoil_colour(folder, sample):
    images.write_png(folder / "spectrogram.png", np.zeros((HEIGHT, WIDTH, 3)), {})


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda folder, _: (folder / "spectrogram.png").unlink(), "spectrogram.png of {} cannot be read (No such file"),
        (lambda folder, _: (folder / "spectrogram.png").write_bytes(b"x"), "spectrogram.png of {} cannot be read"),
        (spoil_shape, "spectrogram.png of {} has 14 x 51 pixels, where its record tells of 14 x 50: it is no canvas"),
        (spoil_colour, "spectrogram.png of {} is not grey: it is no canvas of ours"),
    ],
)
def test_a_sample_that_is_none_of_ours_is_named_and_the_others_are_coloured(command, workdir, spoil, told):
    bad, good = samples.open_samples(workdir).values()
    spoil(bad.path, bad)
    status, lines = command(workdir, trials=1)
    assert status == 2 and len(lines) == 1
    assert lines[0].startswith("error: not coloured: ") and told.format(bad.id) in lines[0]
    assert samples.open_samples(workdir)[good.id].colorings == ("color_00",)


def test_a_sample_without_its_sound_costs_itself(command, workdir):
    silent, good = samples.open_samples(workdir).values()
    (silent.path / "audio.wav").unlink()
    status, (line, *_) = command(workdir, trials=1, videos=1)
    assert status == 2 and line.startswith("error: not coloured: ") and f"audio.wav of {silent.id} cannot be" in line
    made = samples.open_samples(workdir)
    assert made[good.id].colorings == ("color_00",) and made[silent.id].colorings == ()


@pytest.mark.parametrize("harm", [lambda png: png.unlink(), lambda png: png.with_suffix(".json").write_text('{"id')])
def test_a_coloured_picture_that_is_lost_is_made_again(coloured, how, tmp_path, harm):
    workdir = shutil.copytree(coloured, tmp_path / "out")
    first, _ = samples.open_samples(workdir).values()
    expected = pictures_of(workdir)
    harm(first.path / "color_00.png")
    gallery.write(workdir)
    run.run(how(videos=1), workdir, "all")
    found = pictures_of(workdir)
    assert found.keys() == expected.keys()
    assert np.abs(found[first.id, "color_00"] - expected[first.id, "color_00"]).max() <= 2 / 255


def test_the_noise_of_a_stage_that_is_not_does_not_count(how):
    of = lambda **change: how(**change).of_trial(finished.record(), 0)  # noqa: E731
    assert of(stage_2="", noise_level=60) == of(stage_2="", noise_level=50)
    assert of(noise_level=60) != of(noise_level=50)


def test_models_beyond_the_memory_are_told(workdir, how, monkeypatch):
    def beyond(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(run, "PixelPainter", beyond)
    with pytest.raises(UserError, match="colorize.dtype=float32: the models are beyond the memory; set one of fewer"):
        run.run(how(), workdir, "all")


def test_a_record_that_is_none_of_ours_is_left_out(command, workdir):
    bad, good = samples.open_samples(workdir).values()
    (bad.path / "sample.json").write_text(json.dumps({**bad.record, "image": "a castle"}))
    status, lines = command(workdir, trials=1)
    assert status == 0 and len(lines) >= 1 and all("is not the record of a sample of ours" in line for line in lines)
    assert samples.open_samples(workdir)[good.id].colorings == ("color_00",)


def test_what_is_not_there(refused, workdir, tmp_path):
    first, _ = samples.open_samples(workdir)
    assert (
        refused(f"--select={first}x") == f"--select: {workdir} has no finished sample {first}x; did you mean {first}?"
    )
    assert "starred.txt: cannot be read (No such file or directory); export the starred ids" in refused(
        "--select=starred"
    )
    assert "no finished samples to colour (--select=,)" in refused("--select=,")
    assert "/nowhere: no such folder" in refused(f"--workdir={tmp_path}/nowhere")


def test_two_at_once(refused, workdir):
    with locks.hold(workdir, "colors"):
        assert "colors is being made in" in (line := refused()) and line.endswith("; wait for it, or stop it")


def test_a_model_that_gives_nothing_finite(workdir, how, monkeypatch):
    monkeypatch.setattr(
        colorizers.FactorizedColorizer, "_paint", lambda self, batch: batch.grey * np.full(3, np.nan, np.float32)
    )
    with pytest.raises(UserError, match="not coloured: .*/color_00: what the model gave is not finite"):
        run.run(how(), workdir, "all")
    assert not pictures_of(workdir)


def test_a_kill_leaves_no_record(workdir, how, monkeypatch):
    write = files.write

    def interrupted(path, data):
        if path.name == "color_01.json":
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(files, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(how(), workdir, "all")
    monkeypatch.setattr(files, "write", write)
    assert {name for _, name in pictures_of(workdir)} <= {"color_00"}
    run.run(how(), workdir, "all")
    assert len(pictures_of(workdir)) == 4
