"""Score distillation by a model of pixels: what it is shown, what it asks for, and as the image's model of a sample."""

import dataclasses

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from convert import conversion
from its_jax import pretrained
from its_jax.diffusion import denoise
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.pipeline import t5_embeddings
from its_jax.pipeline.methods import sds_latent, sds_pixel, subclasses
from its_jax.pipeline.sampler import Sampler
from its_jax.settings.parse import read_settings
from tests.helpers import pixel_folder
from tests.helpers.torch_twins import jit

pytestmark = pytest.mark.usefixtures("quick_programs")

SDS = {"method": "sds", "num_steps": 2, "learning_rate": 1e-2, "num_samples": 2, "batch_size": 8, "image.start_step": 0}
HEIGHT, WIDTH = 12, 48


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Sources of both stages."""
    folder = tmp_path_factory.mktemp("pixels")
    for stage in (1, 2):
        pixel_folder.build(folder / f"{stage}", stage)
    return folder


@pytest.fixture(scope="module")
def pixel_models(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted")
    return [str(conversion.convert(str(folders / f"{stage}"), out / f"{stage}")) for stage in (1, 2)]


@pytest.mark.usefixtures("highest_precision")
def test_a_gradient_is_that_of_pytorch(folders, pixel_models):
    """Of the loss as it is stated, through PyTorch's own crops, resizing and UNet."""
    model = pretrained.load_model(pixel_models[0], components=("unet",), dtype=jnp.float32)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folders / "1" / "unet")
    alphas = jnp.asarray(model.schedule.alphas_cumprod(), jnp.float32)
    rng = np.random.default_rng(0)
    text = rng.normal(size=(2, 7, pixel_folder.WIDTH)).astype(np.float32)
    picture = rng.uniform(size=(HEIGHT, WIDTH)).astype(np.float32)
    scale, key = 8.0, jax.random.key(3)

    of_places, of_t, of_eps = jax.random.split(key, 3)
    places = np.asarray(jax.random.randint(of_places, (8, 2), 0, np.array([1, WIDTH - HEIGHT + 1])))
    t = int(jax.random.randint(of_t, (), 20, 981))
    eps = torch.from_numpy(np.array(jax.random.normal(of_eps, (8, 8, 8, 3)))).permute(0, 3, 1, 2)
    assert len({tuple(place) for place in places}) > 4

    leaf = torch.from_numpy(picture).requires_grad_()
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
    critic = sds_pixel.PixelGuide(model.unet, alphas)
    found = jit(lambda critic, *of: critic.gradient(term, *of))(critic, jnp.float32([scale]), picture[None], key[None])
    expected = leaf.grad.numpy()
    np.testing.assert_allclose(found[0], expected, atol=1e-4 * np.abs(expected).max())


def test_crops_are_of_the_picture_as_its_view_shows_it():
    """Of a picture that lies on its side, as high as it is wide there."""
    picture = jnp.broadcast_to(jnp.linspace(0, 1, WIDTH), (HEIGHT, WIDTH))
    made = np.asarray(sds_pixel.random_crops(picture, VIEWS["rotate_90"], jax.random.key(0), HEIGHT))
    assert made.shape == (8, HEIGHT, HEIGHT, 3) and np.ptp(made, axis=2).max() < 1e-6  # of each row one brightness
    steps = np.diff(made[:, :, 0, 0], axis=1)
    np.testing.assert_allclose(np.abs(steps), 2 / (WIDTH - 1), atol=1e-6)
    assert len(np.unique(made[:, 0, 0, 0].round(4))) > 4


def test_a_model_of_pixels_that_gives_nothing_finite_is_told():
    predicted = jnp.full((8, 4, 4, 3), jnp.nan)
    assert jnp.isnan(sds_latent.weighted(jnp.float32(0.5), predicted, jnp.zeros_like(predicted))).all()


# As the model of `image`


@pytest.fixture(scope="module")
def expand(small, pixel_models):
    return lambda **more: read_settings(small(SDS | {"image.model": pixel_models[0]}, **more).to_dict())[0]


@pytest.fixture(scope="module")
def distiller(expand):
    return subclasses.sampler_for(expand()[0], None, Sampler, pending=2, batch_size=8)


def test_samples_depend_on_their_seeds_and_both_models(expand, distiller):
    one, two = distiller(expand())
    assert one.fault is None and np.abs(one.latents - two.latents).max() > 0.05
    (again,) = distiller(expand(seed=1, num_samples=1), position=5)
    np.testing.assert_allclose(again.latents, two.latents, atol=1e-5)
    for change in ({"image.weight": 0.0}, {"audio.weight": 0.0}, {"image.prompt": "a cat"}):
        (other,) = distiller(expand(num_samples=1, **change))
        assert np.abs(other.latents - one.latents).max() > 1e-4


def test_each_prompt_is_read_once_by_t5_and_it_is_let_go(expand, distiller, monkeypatch):
    assert distiller.image.text_encoder is None
    distiller(expand())
    monkeypatch.setattr(t5_embeddings, "_encoded", None)  # what was read is kept on the disk, for other runs, too
    subclasses.sampler_for(expand()[0], None, Sampler, pending=2, batch_size=8)(expand())


def test_what_cannot_be_asked_is_refused(expand, pixel_models, distiller):
    def sampler(**change):
        subclasses.sampler_for(expand(**change)[0], None, Sampler, pending=1)

    with pytest.raises(UserError, match="is a model of the second stage"):
        sampler(**{"image.model": pixel_models[1]})
    with pytest.raises(UserError, match="has no vocoder"):
        sampler(**{"audio.model": pixel_models[0]})
    with pytest.raises(UserError, match="has no vae"):
        sampler(method="fused")
    outline = pretrained.abstract_model(pixel_models[0], components=("unet",), dtype="float32")
    for size in (None, 7):
        outline.unet.config = dataclasses.replace(outline.unet.config, sample_size=size)
        with pytest.raises(UserError, match=f"has sample_size {size}; method='sds' needs"):
            sds_pixel.check_model("model", outline.unet)
