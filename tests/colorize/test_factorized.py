"""The rules of colouring, with fakes in place of models: against the authors' rule written with diffusers."""

import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from its_jax.colorize import factorized, latent, luminance
from its_jax.colorize.settings import subject
from its_jax.diffusion import ddpm
from its_jax.diffusion.denoise import Term
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import solver_table
from its_jax.diffusion.windows import Windows
from its_jax.media import images
from its_jax.models.if_unet import PixelUNet, PixelUNetConfig
from its_jax.models.state_dict import abstract_arrays
from tests.helpers import authors_color as authors_colour
from tests.helpers.authors_color import jax_side, torch_side
from tests.helpers.torch_twins import jit, normal, read

STEPS, START, LEVEL, SCALE = 30, 7, 50, np.array([3.0, 1.5], np.float32)
SHAPE, SEEDS = (2, 8, 12, 3), np.array([5, 6], np.uint32)
TEXTS = normal((2, 2, 7, 4), 3)


@jax.tree_util.register_pytree_node_class
class FakeUNet:
    """Predicts nearly the noise that is in x, as a trained model does, and something of all that it is given."""

    def project_text(self, text):
        return text.mean(axis=(1, 2))[:, None, None, None]

    def predict(self, x, t, text, level=None):
        told = 0.001 * t + (0 if level is None else 0.01 * level)
        eps = 0.7 * x[..., :3] + 0.2 * jnp.sin(3 * x[..., -3:] + told[:, None, None, None]) + text
        return jnp.concatenate([eps, jnp.tanh(x[..., 2::-1] + text)], axis=-1)

    def tree_flatten(self):
        return (), None

    @classmethod
    def tree_unflatten(cls, *_):
        return cls()


def in_torch(grey, stage, monkeypatch, small=None, start=None):
    fake = FakeUNet()

    def ask(x, t, which):
        levels = None if small is None else np.full(len(x), LEVEL)
        return fake.predict(x, np.full(len(x), t), fake.project_text(TEXTS[:, which]), levels)

    return authors_colour.stage(stage, grey, ask, SCALE, SEEDS, STEPS, monkeypatch, small=small, start=start)


def ours(grey, stage, x, first, small=None, windows=None):
    schedule = ddpm.DDPMSchedule.from_dict(read("configs", f"if_{'i' * stage}.scheduler"))
    rows = ddpm.ddpm_table(schedule, STEPS)
    static = dict(schedule=schedule, stage=stage, level=None if small is None else LEVEL, windows=windows)
    run = jit(lambda rows, *args: factorized.denoise(FakeUNet(), rows, *args, **static))
    if x is None:
        x = factorized.initial_latent(jax.tree.map(lambda column: column[first], rows), grey, SEEDS, stage=stage)
    for k in (first, 19):  # in two calls
        x = run(rows, x, grey, TEXTS, SCALE, SEEDS, small, k, 19 if k == first else STEPS)
    return np.asarray(x)


@pytest.fixture
def grey():
    return np.random.default_rng(0).uniform(-1, 1, (*SHAPE[:3], 1)).astype(np.float32)


def test_the_first_stage_is_the_authors_rule(grey, monkeypatch):
    """In which the steps before the reset have no part."""
    expected = in_torch(grey, 1, monkeypatch, start=START)
    found = ours(grey, 1, None, START)
    assert expected.std() > 0.1 and np.abs(luminance.chroma(expected)).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_second_stage_is_the_authors_rule(grey, monkeypatch):
    small = normal(SHAPE, 2)
    noise = torch_side(factorized.draw(SEEDS, 2, factorized.SMALL, 0, SHAPE[1:]))
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    schedule = ddpm.DDPMSchedule.from_dict({**scheduler.config})
    noisy = scheduler.add_noise(torch_side(small), noise, torch.full((2,), LEVEL))
    found = factorized.add_noise(small, SEEDS, schedule=schedule, level=LEVEL, stage=2)
    np.testing.assert_allclose(found, jax_side(noisy), rtol=0, atol=1e-5)
    expected = in_torch(grey, 2, monkeypatch, small=noisy)
    x = factorized.draw(SEEDS, 2, factorized.START, 0, SHAPE[1:])
    np.testing.assert_allclose(ours(grey, 2, x, 0, small=np.asarray(found)), expected, rtol=0, atol=1e-4)


def test_windows_make_what_one_does_where_the_model_sees_pixels_alone(grey):
    expected = ours(grey, 1, None, START)
    for wrap in (False, True):
        found = ours(grey, 1, None, START, windows=Windows.cover(12, 6, wrap))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_noise_differs_by_use_step_stage_and_seed():
    of = [(1, factorized.START, 0), (1, factorized.STEP, 0), (1, factorized.STEP, 1), (2, factorized.STEP, 0)]
    drawn = [np.ravel(factorized.draw(SEEDS, *one, (64, 64, 3))[0]) for one in of]
    drawn.append(np.ravel(factorized.draw(SEEDS, *of[0], (64, 64, 3))[1]))
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.03


def test_pictures_are_enlarged_as_if_was_trained():
    x = normal((2, 5, 7, 3))
    options = dict(scale_factor=4, mode="bilinear", align_corners=True)
    expected = jax_side(torch.nn.functional.interpolate(torch_side(x), **options))
    np.testing.assert_allclose(factorized.upsample(x, 4), expected, rtol=0, atol=1e-5)
    expected = jax_side(torch.nn.functional.avg_pool2d(torch_side(x[:, :4, :6]), 2))
    np.testing.assert_allclose(factorized.downsample(x[:, :4, :6], 2), expected, rtol=0, atol=1e-6)
    assert factorized.upsample(x[:, :1], 4).shape == (2, 4, 28, 3)


@pytest.mark.parametrize("spread", [0.05, 0.5, 5.0])
def test_the_grey_is_kept_exactly(spread):
    """To a level of 255 everywhere, in the file, whatever the colours are; black and white stay."""
    g = np.arange(256, dtype=np.float32).repeat(64).reshape(1, 64, 256, 1) / 255
    picture = 0.5 + spread * normal((1, 64, 256, 3))
    found = np.asarray(luminance.clip_to_gamut(g, picture))
    assert found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(found.mean(axis=-1, keepdims=True), g, rtol=0, atol=1e-6)
    levels = np.rint(found * 255)
    assert np.abs(levels.mean(axis=-1, keepdims=True) - np.rint(g * 255)).max() <= 0.5 + 1e-6  # of 1 that is asked for
    assert (found[g[..., 0] == 0] == 0).all() and (found[g[..., 0] == 1] == 1).all()


def test_the_written_picture_has_the_grey(tmp_path):
    g = np.random.default_rng(0).integers(0, 256, (1, 40, 60, 1)).astype(np.float32) / 255
    images.write_png(tmp_path / "a.png", np.asarray(luminance.clip_to_gamut(g, normal((1, 40, 60, 3))))[0], {})
    picture, _ = images.read_png(tmp_path / "a.png")
    assert np.abs(picture.mean(axis=-1) - g[0, ..., 0]).max() <= 1 / 255


def test_colours_are_as_strong_as_the_range_lets_them_be():
    g, picture = np.full((1, 1, 1, 1), 0.8, np.float32), np.array([0.9, 0.5, 0.1], np.float32).reshape(1, 1, 1, 3)
    found = np.ravel(luminance.clip_to_gamut(g, picture))
    np.testing.assert_allclose(found, [1.0, 0.8, 0.6], rtol=0, atol=1e-6)
    weak = 0.8 + 0.1 * (picture - 0.5)
    np.testing.assert_allclose(luminance.clip_to_gamut(g, weak), weak, rtol=0, atol=1e-6)  # they stay


@pytest.mark.parametrize("stage, size", [(1, (64, 248)), (2, (256, 992))])
def test_ifs_models_take_the_authors_canvas(stage, size):
    config = PixelUNetConfig.from_dict(read("configs", f"if_{'i' * stage}_m.unet"))
    assert not any(pixels % config.multiple for pixels in size)
    schedule = ddpm.DDPMSchedule.from_dict(read("configs", f"if_{'i' * stage}.scheduler"))
    shaped = functools.partial(jax.ShapeDtypeStruct, dtype=np.float32)
    x, small = shaped((1, *size, 3)), shaped((1, *size, 3)) if stage == 2 else None
    rest = shaped((1, *size, 1)), shaped((1, 2, 77, 4096)), shaped((1,)), jax.ShapeDtypeStruct((1,), np.uint32), small
    static = dict(schedule=schedule, stage=stage, level=LEVEL if stage == 2 else None)
    run = functools.partial(factorized.denoise, **static)
    rows = jax.tree.map(jnp.asarray, ddpm.ddpm_table(schedule, STEPS))
    found = jax.eval_shape(run, abstract_arrays(PixelUNet, config), rows, x, *rest, jnp.int32(0), jnp.int32(STEPS))
    assert found.shape == x.shape


class _Posterior:
    def __init__(self, mean):
        self.mean = mean


@jax.tree_util.register_pytree_node_class
class FakeVAE(FakeUNet):
    """Takes pictures for latents, of 2 x 2 pixels each."""

    class config:
        scaling_factor, factor = 0.5, 2

    def encode(self, x):
        b, h, w, c = x.shape
        return _Posterior(x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4)))

    def decode(self, z):
        return jnp.repeat(jnp.repeat(z, 2, axis=1), 2, axis=2)


def test_a_latent_model_ends_where_it_would():
    schedule = NoiseSchedule(1000, 0.00085, 0.012, "scaled_linear", set_alpha_to_one=False, steps_offset=1)
    rows = jax.tree.map(jnp.asarray, solver_table(schedule, 10, latent.SOLVER))
    grey = np.random.default_rng(0).uniform(0.1, 0.9, (2, 4, 6, 1)).astype(np.float32)
    grey = np.repeat(np.repeat(grey, 2, axis=1), 2, axis=2)
    colour = np.array([0.3, 0.0, -0.3], np.float32)

    def unet(x, t, text):  # knows the picture: a mid-grey of that colour
        row = jax.tree.map(lambda column: column[jnp.argmax(rows.t == t[0])], rows)
        z = (2 * (0.5 + colour * text.mean()) - 1) * FakeVAE.config.scaling_factor
        return (x - row.alpha * z) / row.sigma

    z = latent.initial_latent(FakeVAE(), jax.tree.map(lambda column: column[2], rows), grey, SEEDS)
    term = Term(np.ones((2, 2, 7, 4), np.float32), np.full(2, 3.0, np.float32), None)
    run = jit(lambda *args: latent.colorize(unet, rows, term, *args))
    for first, last in ((2, 5), (5, 10)):
        z = run(z, first, last)
    expected = 0.5 + np.broadcast_to(colour, (*grey.shape[:3], 3))
    np.testing.assert_allclose(latent.decode(FakeVAE(), z), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("a painting of castle towers, grayscale", "castle towers"),
        ("a painting of corgis, grayscale, black background", "corgis"),
        ("a castle with bell towers, grayscale, lithograph style", "a castle with bell towers"),
        ("a pencil drawing of two dogs", "two dogs"),
        ("trees", "trees"),
    ],
)
def test_the_subject_of_a_prompt(prompt, expected):
    assert subject(prompt) == expected
