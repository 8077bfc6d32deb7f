"""Score distillation by a pixel model: its gradient, its crops, and its use as the image model of a sample."""

import dataclasses
import logging

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from convert import conversion
from its_jax import Pipeline, pretrained
from its_jax.diffusion import denoise
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.pipeline.methods import sds_latent, sds_pixel
from its_jax.settings.parse import read_settings
from tests.helpers import pixel_folder
from tests.helpers.torch_twins import jit

pytestmark = pytest.mark.usefixtures("quick_programs")

SDS = {"method": "sds", "num_steps": 2, "learning_rate": 1e-2, "num_samples": 2, "batch_size": 8, "image.start_step": 0}
HEIGHT, WIDTH = 12, 48


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Writes models of both stages in diffusers' layout, and returns their folder."""
    folder = tmp_path_factory.mktemp("pixels")
    for stage in (1, 2):
        pixel_folder.build(folder / f"{stage}", stage)
    return folder


@pytest.fixture(scope="module")
def pixel_models(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted")
    return [str(conversion.convert(str(folders / f"{stage}"), out / f"{stage}")) for stage in (1, 2)]


@pytest.mark.usefixtures("highest_precision")
def test_the_gradient_equals_that_of_pytorch(folders, pixel_models):
    """Compares the gradient of the loss as it is defined, through PyTorch's crops, resizing and UNet."""
    model = pretrained.load_model(pixel_models[0], components=("unet",), dtype=jnp.float32)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folders / "1" / "unet")
    alphas = jnp.asarray(model.schedule.alphas_cumprod(), jnp.float32)
    rng = np.random.default_rng(0)
    text = rng.normal(size=(2, 7, pixel_folder.WIDTH)).astype(np.float32)
    image = rng.uniform(size=(HEIGHT, WIDTH)).astype(np.float32)
    scale, key = 8.0, jax.random.key(3)

    key_places, key_t, key_eps = jax.random.split(key, 3)
    places = np.asarray(jax.random.randint(key_places, (8, 2), 0, np.array([1, WIDTH - HEIGHT + 1])))
    t = int(jax.random.randint(key_t, (), 20, 981))
    eps = torch.from_numpy(np.array(jax.random.normal(key_eps, (8, 8, 8, 3)))).permute(0, 3, 1, 2)
    assert len({tuple(place) for place in places}) > 4

    leaf = torch.from_numpy(image).requires_grad_()
    cut = torch.stack([leaf[:, column : column + HEIGHT].repeat(3, 1, 1) for _, column in places])
    x0 = torch.nn.functional.interpolate(cut, (8, 8), mode="bilinear", antialias=True) * 2 - 1
    with torch.no_grad():
        a = float(alphas[t])
        x = a**0.5 * x0 + (1 - a) ** 0.5 * eps
        given = torch.from_numpy(text).repeat_interleave(8, dim=0)
        negative, positive = unet(x.repeat(2, 1, 1, 1), t, given).sample[:, :3].chunk(2)
        target = x0 - (1 - a) * (negative + scale * (positive - negative) - eps)
    (0.5 * torch.nn.functional.mse_loss(x0, target, reduction="sum") / 8).backward()

    term = denoise.Term(jax.tree.map(lambda leaf: leaf[None], model.unet.project_text(text)), None, None)
    guide = sds_pixel.PixelGuide(model.unet, alphas)
    found = jit(lambda guide, *args: guide.gradient(term, *args))(guide, jnp.float32([scale]), image[None], key[None])
    expected = leaf.grad.numpy()
    np.testing.assert_allclose(found[0], expected, atol=1e-4 * np.abs(expected).max())


def test_crops_show_the_image_in_its_view():
    """The image lies on its side, so that crops are as high and wide as its width there."""
    image = jnp.broadcast_to(jnp.linspace(0, 1, WIDTH), (HEIGHT, WIDTH))
    made = np.asarray(sds_pixel.random_crops(image, VIEWS["rotate_90"], jax.random.key(0), HEIGHT))
    assert made.shape == (8, HEIGHT, HEIGHT, 3) and np.ptp(made, axis=2).max() < 1e-6  # of each row one brightness
    steps = np.diff(made[:, :, 0, 0], axis=1)
    np.testing.assert_allclose(np.abs(steps), 2 / (WIDTH - 1), atol=1e-6)
    assert len(np.unique(made[:, 0, 0, 0].round(4))) > 4


def test_the_gradient_is_not_finite_if_the_model_returns_nothing_finite():
    predicted = jnp.full((8, 4, 4, 3), jnp.nan)
    assert jnp.isnan(sds_latent.weighted(jnp.float32(0.5), predicted, jnp.zeros_like(predicted))).all()


# As the model of `image`


@pytest.fixture(scope="module")
def expand(small, pixel_models):
    """Returns the settings of samples, with changes of the small config."""
    return lambda **more: read_settings(small(SDS | {"image.model": pixel_models[0]}, **more).to_dict())[0]


@pytest.fixture(scope="module")
def program(expand):
    return Pipeline(devices=jax.local_devices()[:1]).compile(expand()[0], pending=2, batch_size=2)


def test_samples_depend_on_their_seeds_and_both_models(expand, program):
    one, two = program(expand())
    assert one.fault is None and np.abs(one.latents - two.latents).max() > 0.05
    (again,) = program(expand(seed=1, num_samples=1), batch_index=0)
    np.testing.assert_allclose(again.latents, two.latents, atol=1e-5)
    for change in ({"image.weight": 0.0}, {"audio.weight": 0.0}, {"image.prompt": "a cat"}):
        (other,) = program(expand(num_samples=1, **change))
        assert np.abs(other.latents - one.latents).max() > 1e-4


def test_t5_encodes_each_prompt_once_for_all_runs_and_is_released(expand, program, caplog):
    assert program.components.models["image"].text_encoder is None
    program(expand())
    caplog.set_level(logging.INFO)
    prompts = Pipeline().load(expand()[0]).prompts
    prompts.encode(expand())
    assert not [message for message in caplog.messages if message.startswith("encoding")]
    prompts.encode(expand(**{"image.prompt": "cat bell cat"}))
    assert [message for message in caplog.messages if message.startswith("encoding 1 prompts")]


def test_models_that_do_not_suit_the_method_are_refused(expand, pixel_models):
    def load(**change):
        Pipeline().load(expand(**change)[0])

    with pytest.raises(UserError, match="is a second-stage model"):
        load(**{"image.model": pixel_models[1]})
    with pytest.raises(UserError, match="has no vocoder"):
        load(**{"audio.model": pixel_models[0]})
    with pytest.raises(UserError, match="has no vae"):
        load(method="fused")
    outline = pretrained.abstract_model(pixel_models[0], components=("unet",), dtype="float32")
    for size in (None, 7):
        outline.unet.config = dataclasses.replace(outline.unet.config, sample_size=size)
        with pytest.raises(UserError, match=f"has sample_size {size}; method='sds' needs"):
            sds_pixel.check_model("model", outline.unet)
