"""Factorized colorization with fake models, compared with the authors' procedure in PyTorch."""

import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from its_jax.colorize import factorized, luminance
from its_jax.diffusion import ddpm
from its_jax.diffusion.windows import Windows
from its_jax.models.if_unet import PixelUNet, PixelUNetConfig
from its_jax.models.state_dict import abstract_arrays
from tests.helpers import authors_color
from tests.helpers.authors_color import jax_side, torch_side
from tests.helpers.torch_twins import jit, normal, read

STEPS, START, LEVEL, SCALE = 30, 7, 50, np.array([3.0, 1.5], np.float32)
SHAPE, SEEDS = (2, 8, 12, 3), np.array([5, 6], np.uint32)
TEXTS = normal((2, 2, 7, 4), 3)


@jax.tree_util.register_pytree_node_class
class FakeUNet:
    """Predicts nearly the noise in x, as a trained model does, and depends on all of its inputs."""

    def project_text(self, text):
        return text.mean(axis=(1, 2))[:, None, None, None]

    def predict(self, x, t, text, level=None):
        phase = 0.001 * t + (0 if level is None else 0.01 * level)
        eps = 0.7 * x[..., :3] + 0.2 * jnp.sin(3 * x[..., -3:] + phase[:, None, None, None]) + text
        return jnp.concatenate([eps, jnp.tanh(x[..., 2::-1] + text)], axis=-1)

    def tree_flatten(self):
        return (), None

    @classmethod
    def tree_unflatten(cls, *_):
        return cls()


def run_torch(gray, stage, monkeypatch, small=None, start=None):
    fake = FakeUNet()

    def predict(x, t, prompt):
        levels = None if small is None else np.full(len(x), LEVEL)
        return fake.predict(x, np.full(len(x), t), fake.project_text(TEXTS[:, prompt]), levels)

    return authors_color.stage(stage, gray, predict, SCALE, SEEDS, STEPS, monkeypatch, small=small, start=start)


def run_ours(gray, stage, x, first, small=None, windows=None):
    schedule = ddpm.DDPMSchedule.from_dict(read("configs", f"if_{'i' * stage}.scheduler"))
    table = ddpm.ddpm_table(schedule, STEPS)
    static = dict(schedule=schedule, stage=stage, level=None if small is None else LEVEL, windows=windows)
    run = jit(lambda table, *args: factorized.denoise(FakeUNet(), table, *args, **static))
    if x is None:
        x = factorized.initial_latent(jax.tree.map(lambda column: column[first], table), gray, SEEDS, stage=stage)
    for k in (first, 19):  # in two calls
        x = run(table, x, gray, TEXTS, SCALE, SEEDS, small, k, 19 if k == first else STEPS)
    return np.asarray(x)


@pytest.fixture
def gray():
    return np.random.default_rng(0).uniform(-1, 1, (*SHAPE[:3], 1)).astype(np.float32)


def test_the_first_stage_follows_the_authors_procedure(gray, monkeypatch):
    """Although the authors also make the steps before the reset."""
    expected = run_torch(gray, 1, monkeypatch, start=START)
    found = run_ours(gray, 1, None, START)
    assert expected.std() > 0.1 and np.abs(luminance.chroma(expected)).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_second_stage_follows_the_authors_procedure(gray, monkeypatch):
    small = normal(SHAPE, 2)
    noise = torch_side(factorized.draw(SEEDS, 2, factorized.SMALL, 0, SHAPE[1:]))
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    schedule = ddpm.DDPMSchedule.from_dict({**scheduler.config})
    noisy = scheduler.add_noise(torch_side(small), noise, torch.full((2,), LEVEL))
    found = factorized.add_noise(small, SEEDS, schedule=schedule, level=LEVEL, stage=2)
    np.testing.assert_allclose(found, jax_side(noisy), rtol=0, atol=1e-5)
    expected = run_torch(gray, 2, monkeypatch, small=noisy)
    x = factorized.draw(SEEDS, 2, factorized.START, 0, SHAPE[1:])
    np.testing.assert_allclose(run_ours(gray, 2, x, 0, small=np.asarray(found)), expected, rtol=0, atol=1e-4)


def test_windows_do_not_change_the_result_of_a_model_without_context(gray):
    expected = run_ours(gray, 1, None, START)
    for wrap in (False, True):
        found = run_ours(gray, 1, None, START, windows=Windows.cover(12, 6, wrap))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_noise_differs_by_use_step_stage_and_seed():
    draws = [(1, factorized.START, 0), (1, factorized.STEP, 0), (1, factorized.STEP, 1), (2, factorized.STEP, 0)]
    drawn = [np.ravel(factorized.draw(SEEDS, *use, (64, 64, 3))[0]) for use in draws]
    drawn.append(np.ravel(factorized.draw(SEEDS, *draws[0], (64, 64, 3))[1]))
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.03


def test_images_are_resized_as_in_the_training_of_if():
    x = normal((2, 5, 7, 3))
    options = dict(scale_factor=4, mode="bilinear", align_corners=True)
    expected = jax_side(torch.nn.functional.interpolate(torch_side(x), **options))
    np.testing.assert_allclose(factorized.upsample(x, 4), expected, rtol=0, atol=1e-5)
    expected = jax_side(torch.nn.functional.avg_pool2d(torch_side(x[:, :4, :6]), 2))
    np.testing.assert_allclose(factorized.downsample(x[:, :4, :6], 2), expected, rtol=0, atol=1e-6)
    assert factorized.upsample(x[:, :1], 4).shape == (2, 4, 28, 3)


@pytest.mark.parametrize("stage, size", [(1, (64, 248)), (2, (256, 992))])
def test_the_models_of_if_take_the_authors_canvas(stage, size):
    config = PixelUNetConfig.from_dict(read("configs", f"if_{'i' * stage}_m.unet"))
    assert not any(pixels % config.multiple for pixels in size)
    schedule = ddpm.DDPMSchedule.from_dict(read("configs", f"if_{'i' * stage}.scheduler"))
    shaped = functools.partial(jax.ShapeDtypeStruct, dtype=np.float32)
    x, small = shaped((1, *size, 3)), shaped((1, *size, 3)) if stage == 2 else None
    rest = shaped((1, *size, 1)), shaped((1, 2, 77, 4096)), shaped((1,)), jax.ShapeDtypeStruct((1,), np.uint32), small
    static = dict(schedule=schedule, stage=stage, level=LEVEL if stage == 2 else None)
    run = functools.partial(factorized.denoise, **static)
    table = jax.tree.map(jnp.asarray, ddpm.ddpm_table(schedule, STEPS))
    found = jax.eval_shape(run, abstract_arrays(PixelUNet, config), table, x, *rest, jnp.int32(0), jnp.int32(STEPS))
    assert found.shape == x.shape
