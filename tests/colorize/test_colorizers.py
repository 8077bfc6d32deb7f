"""Colorization with small random models."""

import dataclasses
import json
import re

import diffusers
import jax
import numpy as np
import pytest
import torch

from its_jax import pretrained
from its_jax.colorize import factorized, luminance
from its_jax.colorize.factorized_colorizer import FactorizedColorizer
from its_jax.colorize.run import load_colorizer
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.pipeline import t5_embeddings
from its_jax.pipeline.placement import DataParallel, data_mesh
from its_jax.storage import samples
from tests.helpers import authors_color, pixel_folder
from tests.helpers.authors_color import jax_side, torch_side
from tests.helpers.collectives import COLLECTIVES
from tests.helpers.colorization import assert_gray_is_kept, colored_images, colorize, load, on_devices, write_samples

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def colorized(color_settings, quick_programs, tmp_path_factory):
    """A folder with two samples, colorized by both stages."""
    folder = tmp_path_factory.mktemp("colorized")
    write_samples(folder)
    colorize(color_settings(), folder)
    return folder


def gray_images(width=32):
    return np.random.default_rng(0).uniform(size=(2, 16, width)).astype(np.float32)


def test_both_stages_color_images_and_keep_their_gray(colorized):
    assert_gray_is_kept(colorized)
    assert len({image.tobytes() for image in colored_images(colorized).values()}) == 4


def test_the_record_holds_settings_models_and_versions(colorized, pixel_models):
    sample, _ = samples.open_samples(colorized).values()
    record = json.loads(sample.read("color_01.json"))
    assert record["id"] == sample.id
    assert record["run"] == {"platform": "cpu", "devices": jax.local_device_count(), "batch_size": 2, "position": 1}
    settings = record["colorize"]
    assert settings["prompt"] == "a colorful photo of trees"
    assert settings["seed"] == 1 and settings["noise_level"] == 50
    assert settings["stage_1"] == pixel_models["stage_1"]
    identities = {
        name: pretrained.abstract_model(source, components=("unet",), dtype="float32").identity
        for name, source in pixel_models.items()
    }
    assert record["models"] == identities
    assert record["versions"]["jax"] == jax.__version__


def test_an_image_does_not_depend_on_its_batch(colorized, color_settings, workdir):
    last = sorted(samples.open_samples(workdir))[-1]
    colorize(color_settings(trials=1, seed=1), workdir, last)
    ((_, found),) = colored_images(workdir).items()
    expected = samples.open_samples(colorized)[last].read_image("color_01")
    assert np.abs(found - expected).max() <= 2 / 255


def test_the_first_stage_suffices(workdir, color_settings):
    colorize(color_settings(stage_2="", batch_size=1), workdir)
    assert_gray_is_kept(workdir)
    assert len(colored_images(workdir)) == 4
    for sample in samples.open_samples(workdir).values():
        assert sample.coloring_record("color_00")["run"]["batch_size"] == 1


def test_loops_are_colorized_in_windows(color_settings, tmp_path):
    write_samples(tmp_path, 1, width=64, height=16, wrap=True)
    colorize(color_settings(trials=1, window=32, stage_2=""), tmp_path)
    assert_gray_is_kept(tmp_path)


def test_a_latent_model_colors_images_and_keeps_their_gray(workdir, color_settings):
    colorize(color_settings(method="latent"), workdir)
    assert_gray_is_kept(workdir)
    assert len(colored_images(workdir)) == 4
    for sample in samples.open_samples(workdir).values():
        record = sample.coloring_record("color_00")
        assert record["models"].keys() == {"latent_model"} and "stage_1" not in record["colorize"]


def test_both_stages_follow_the_authors_procedure(color_settings, pixel_twins, monkeypatch, highest_precision):
    """Compares texts, guidance, sizes, noise of the small image and steps with PyTorch's modules."""
    settings = color_settings()
    colorizer = load(settings, "", ["cat", "bell"])
    gray, seeds = gray_images(), np.array([3, 4], np.uint32)
    found = colorizer(gray, ["cat", "bell"], seeds)
    texts = torch.from_numpy(np.array(colorizer.encode(["cat", "bell"])))
    signed = torch_side(gray[..., None] * 2 - 1)

    def stage(number, gray, **options):
        unet = pixel_twins[number][1]["unet"]

        def predict(x, t, prompt):
            level = {"class_labels": torch.full((2,), settings.noise_level)} if number == 2 else {}
            with torch.no_grad():
                predicted = unet(torch_side(x), torch.full((2,), t), texts[:, prompt], **level).sample
            return jax_side(predicted)

        scale = np.full(2, settings.guidance_scale, np.float32)
        args = jax_side(gray), predict, scale, seeds, settings.num_steps, monkeypatch
        return torch_side(authors_color.stage(number, *args, **options))

    small = stage(1, torch.nn.functional.avg_pool2d(signed, 4), start=settings.start_step)
    small = torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear", align_corners=True)
    noising = diffusers.DDPMScheduler.from_pretrained(pixel_twins[2][0], subfolder="image_noising_scheduler")
    noise = torch_side(factorized.draw(seeds, 2, factorized.SMALL, 0, (16, 32, 3)))
    small = noising.add_noise(small, noise, torch.full((2,), settings.noise_level))
    x = jax_side(stage(2, signed, small=small))
    expected = np.asarray(luminance.clip_to_gamut(gray[..., None], x / 2 + 0.5))
    assert np.ptp(expected, axis=-1).mean() > 0.05
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


class RecordingPlacement(DataParallel):
    """Records each program with the arguments of its calls."""

    def __init__(self, mesh):
        super().__init__(mesh)
        self.calls = []

    def jit_per_device(self, function, in_specs):
        program = super().jit_per_device(function, in_specs)

        def call(*args):
            self.calls.append((program, args))
            return program(*args)

        return call


@pytest.mark.parametrize("method", ["factorized", "latent"])
def test_devices_do_not_communicate_and_calls_share_a_program(color_settings, latent_model, method):
    placement = RecordingPlacement(data_mesh(jax.devices()[:2]))
    settings = color_settings(stage_2="", method=method)
    colorizer = load_colorizer(settings, latent_model if method == "latent" else "", ["cat"], placement)
    assert colorizer.at_once == 2
    colorizer(gray_images(), ["cat"] * 2, range(2))
    assert len(placement.calls) >= 5
    for program, args in placement.calls:
        assert not re.findall(COLLECTIVES, program.lower(*args).compile().as_text())
        assert program._cache_size() == 1


def test_progress_counts_the_steps_of_all_stages(color_settings):
    settings = color_settings()
    colorizer, reports = load(settings, "", ["cat"]), []
    colorizer(gray_images(), ["cat"] * 2, range(2), on_progress=reports.append)
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    assert {report.num_steps for report in reports} == {5}


@pytest.mark.parametrize("view", ["rotate_180", "block_rearrange"])
def test_images_are_colorized_as_they_look_through_their_view(color_settings, view):
    colorizer = load(color_settings(stage_2=""), "", ["cat"])
    gray = gray_images(64)
    found = colorizer(gray, ["cat"] * 2, [0, 1], view=view)
    viewed = colorizer(np.asarray(VIEWS[view].apply(gray[..., None]))[..., 0], ["cat"] * 2, [0, 1])
    np.testing.assert_array_equal(VIEWS[view].apply(found), viewed)
    np.testing.assert_allclose(found.mean(axis=-1), gray, rtol=0, atol=1e-5)


def test_each_prompt_is_embedded_once(pixel_models, monkeypatch, tmp_path):
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path))
    model = pretrained.abstract_model(pixel_models["stage_1"], components=("text_encoder", "unet"), dtype="float32")
    without_weights = dataclasses.replace(model, folder=tmp_path / "nowhere")
    found = t5_embeddings.embed(model, ["cat", "bell", "cat"])
    assert len(list((tmp_path / t5_embeddings.FOLDER).iterdir())) == 2
    assert found["cat"].shape == (77, pixel_folder.WIDTH) and np.abs(found["cat"] - found["bell"]).max() > 0.1
    again = t5_embeddings.embed(without_weights, ["cat", "bell"])
    np.testing.assert_array_equal(found["cat"], again["cat"])
    damaged, *_ = (tmp_path / t5_embeddings.FOLDER).iterdir()
    damaged.write_bytes(b"not an array")
    again = t5_embeddings.embed(model, ["cat", "bell"])
    np.testing.assert_array_equal(found["cat"], again["cat"])
    np.testing.assert_array_equal(found["bell"], again["bell"])


def test_models_of_another_kind_are_refused(color_settings, pixel_models, latent_model):
    one, two = pixel_models["stage_1"], pixel_models["stage_2"]
    for changes, message in [
        ({"stage_1": two}, f"colorize.stage_1={two}: is a model of the second stage; give it as colorize.stage_2"),
        ({"stage_2": one}, f"colorize.stage_2={one}: is a model of the first stage; give it as colorize.stage_1"),
        ({"stage_1": latent_model}, f"colorize.stage_1={latent_model}: is a latent model, not a pixel model"),
        ({"stage_2": latent_model}, f"colorize.stage_2={latent_model}: is a latent model, not a pixel model"),
    ]:
        with pytest.raises(UserError) as error:
            load(color_settings(**changes), "", ["cat"])
        assert message in str(error.value)
    with pytest.raises(UserError, match=f"colorize.latent_model={one}: is a pixel model"):
        load(color_settings(method="latent"), one, ["cat"])


def test_stages_that_take_other_texts_are_refused(color_settings, tmp_path, monkeypatch):
    monkeypatch.setitem(pixel_folder.STAGES, 2, pixel_folder.STAGES[2] | {"encoder_hid_dim": 48})
    pixel_folder.build(tmp_path / "wide", 2)
    with pytest.raises(UserError, match="takes text features of width 48; the text encoder of .* returns 24"):
        load(color_settings(stage_2=str(tmp_path / "wide")), "", ["cat"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"noise_level": 1000}, "colorize.noise_level=1000: must be 0 to 999, a timestep of"),
        ({"num_steps": 1001}, "num_steps=1001: must be 1 to 1000"),
        ({"window": 12}, "colorize.window=12: must be a multiple of 8 for these models"),
    ],
)
def test_settings_that_do_not_fit_the_models_are_refused(color_settings, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        FactorizedColorizer(color_settings(**changes), ["cat"], on_devices(1))
