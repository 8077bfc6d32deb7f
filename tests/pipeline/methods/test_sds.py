"""Score distillation against PyTorch, and as a method among others: batches, devices, interrupted runs, files."""

import dataclasses
import functools
import json
import re
import types

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from its_jax import Pipeline, pretrained, sample
from its_jax.diffusion import denoise
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.pipeline import prompts
from its_jax.pipeline.methods import sds, sds_latent, sds_loop
from its_jax.pipeline.methods.resume import FOLDER
from its_jax.settings.methods import METHODS
from its_jax.settings.steps import total_steps
from its_jax.storage.files import read_json, write_json
from tests.helpers.collectives import COLLECTIVES
from tests.helpers.fixed_pipeline import FixedPipeline, Wrapped
from tests.helpers.torch_twins import jit

SDS = {"method": "sds", "num_steps": 3, "learning_rate": 1e-2, "num_samples": 2, "batch_size": 8}
SIZE = 12, 48

pytestmark = pytest.mark.usefixtures("quick_programs")


class TorchNetwork(torch.nn.Module):
    """The network that renders the image, as it is written in PyTorch; it is always in training mode."""

    def __init__(self):
        super().__init__()
        conv = lambda n: torch.nn.Conv2d(256, n, 1)  # noqa: E731
        self.net = torch.nn.Sequential(
            conv(256), torch.nn.ReLU(), torch.nn.BatchNorm2d(256),
            conv(256), torch.nn.ReLU(), torch.nn.BatchNorm2d(256),
            conv(1), torch.nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, frequencies):
        v, u = torch.meshgrid(torch.arange(SIZE[0]) / SIZE[0], torch.arange(SIZE[1]) / SIZE[1], indexing="ij")
        angles = 2 * torch.pi * torch.stack([u, v], -1) @ frequencies
        return self.net(torch.cat([angles.sin(), angles.cos()], -1).permute(2, 0, 1)[None])


def torch_copy(network):
    """Returns a PyTorch network with the weights of one of ours."""
    twin = TorchNetwork()
    for place, conv in zip((0, 3, 6), network.convs, strict=True):
        twin.net[place].weight.data = torch.tensor(np.asarray(conv.kernel[...]).T[..., None, None])
        twin.net[place].bias.data = torch.tensor(np.asarray(conv.bias[...]))
    return twin


def first_sample(tree):
    """Returns a pytree of the first sample of a batch."""
    return jax.tree.map(lambda a: a[0], tree)


def test_a_few_numbers_that_are_not_finite_count_as_zero_and_a_whole_sample_of_them_does_not():
    """The authors replace them by zero; a model that returns nothing finite must not pass for one that agrees."""
    z = jnp.zeros((2, 2, 4, 4))
    given = z.at[0, 0, 0, 0].set(jnp.nan).at[1].set(jnp.nan)
    unet = types.SimpleNamespace(predict_batch=lambda x, t, text: jnp.repeat(given, len(x) // 2, axis=0))
    model = sds_latent.LatentGuide(unet, None, jnp.full(1000, 0.5))
    term = denoise.Term(jnp.zeros((2, 2, 1)), None, None)
    g = sds_latent.sds_gradient(model, term, jnp.ones(2), z, jnp.int32([5, 5]), z + 1)
    np.testing.assert_array_equal(g[0, 0, 0], [0, -0.5, -0.5, -0.5])
    assert jnp.isnan(g[1]).all()


@pytest.mark.usefixtures("highest_precision")
def test_an_iteration_computes_what_pytorch_computes(sources, models):
    """Compares the gradient of the loss as it is defined, through PyTorch's encoder, and the step of AdamW."""
    model = pretrained.load_model(models["image.model"], components=("unet", "vae"), dtype=jnp.float32)
    unet = diffusers.UNet2DConditionModel.from_pretrained(sources / "image" / "unet")
    vae = diffusers.AutoencoderKL.from_pretrained(sources / "image" / "vae")
    alphas = model.schedule.alphas_cumprod().astype(np.float32)
    rng = np.random.default_rng(0)
    text = rng.normal(size=(2, 7, 24)).astype(np.float32)
    eps, eps_posterior = rng.normal(size=(2, 1, 6, 24, 4)).astype(np.float32)
    state = sds_loop.initial_state(np.uint32([5]))
    network, frequencies = first_sample(state.network), np.asarray(state.frequencies[0])
    t, scale, weight, rate = 300, 7.5, 0.4, 1e-2

    twin = torch_copy(network)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=rate, weight_decay=1e-3)
    image = twin(torch.tensor(frequencies))
    chw = lambda a: torch.from_numpy(np.moveaxis(a, -1, 1).copy())  # noqa: E731
    posterior = vae.encode(image.repeat(1, 3, 1, 1) * 2 - 1).latent_dist
    z = (posterior.mean + posterior.std * chw(eps_posterior)) * vae.config.scaling_factor
    with torch.no_grad():
        a = float(alphas[t])
        x = a**0.5 * z + (1 - a) ** 0.5 * chw(eps)
        negative, positive = unet(x.repeat(2, 1, 1, 1), t, torch.from_numpy(text)).sample.chunk(2)
        grad = torch.nan_to_num((1 - a) * (negative + scale * (positive - negative) - chw(eps)))
        target = z - grad
    loss = weight * 0.5 * torch.nn.functional.mse_loss(z, target, reduction="sum") / len(z)
    image.retain_grad()
    loss.backward()
    optimizer.step()

    drawn = sds_loop.images(state, size=SIZE)
    np.testing.assert_allclose(drawn[0], image[0, 0].detach(), atol=1e-5)
    unet = prompts.precompute_unet(model.unet, model.schedule.num_train_timesteps)
    term = denoise.Term(model.unet.project_text(jnp.asarray(text)), None, None)
    term = denoise.Term(jax.tree.map(lambda a: a[None], term.texts), None, None)
    guide = sds_latent.LatentGuide(unet, model.vae, alphas)

    def latent(vae, image):
        moments = vae.encode(jnp.repeat(image[..., None], 3, -1) * 2 - 1)
        return (moments.mean + jnp.exp(0.5 * moments.log_variance) * eps_posterior) * 0.18215

    z_ours = jit(latent)(model.vae, drawn)
    g = jit(sds_latent.sds_gradient)(guide, term, jnp.float32([scale]), z_ours, jnp.int32([t]), eps)
    np.testing.assert_allclose(np.moveaxis(np.asarray(g), -1, 1), grad, atol=2e-5 * float(grad.abs().max()))
    pull_back = jit(lambda vae, x, g: jax.vjp(functools.partial(latent, vae), x)[1](g)[0])
    image_gradient = pull_back(model.vae, drawn, g)
    expected = image.grad[0, 0].numpy()
    np.testing.assert_allclose(weight * image_gradient[0], expected, atol=1e-4 * np.abs(expected).max())
    after = iterate_once(state, image_gradient, weight, rate)
    # Adam's first step is the sign of a gradient: where that is tiny, rounding decides.
    for place, conv in zip((0, 3, 6), first_sample(after.network).convs, strict=True):
        kernel = twin.net[place].weight.detach().numpy()[..., 0, 0].T
        apart = np.abs(np.asarray(conv.kernel[...]) - kernel) > 1e-5
        assert apart.mean() < 1e-2
    (now,) = sds_loop.images(after, size=SIZE)
    np.testing.assert_allclose(now, twin(torch.from_numpy(frequencies))[0, 0].detach(), atol=5e-3)


def iterate_once(state, gradient, weight, learning_rate):
    """Returns the state after one iteration with a single guide, whose gradient is given."""
    guide = types.SimpleNamespace(gradient=lambda term, scale, image, keys: gradient)
    steps = jnp.int32([[0, 1]])
    guidance = sds_loop.Guidance(None, jnp.float32([weight]), jnp.ones(1), steps, steps)
    seeds, rates = np.uint32([5]), jnp.float32([learning_rate])
    return sds_loop.optimize([guide], [guidance], state, rates, seeds, 0, 1, size=SIZE)


@pytest.mark.parametrize("view", ["rotate_90", "block_rearrange"])
def test_a_gradient_has_the_layout_of_the_spectrogram_whatever_the_view(models, view):
    model = pretrained.load_model(models["image.model"], components=("unet", "vae"), dtype=jnp.float32)
    unet = prompts.precompute_unet(model.unet, model.schedule.num_train_timesteps)
    guide = sds_latent.LatentGuide(unet, model.vae, jnp.asarray(model.schedule.alphas_cumprod(), jnp.float32))
    texts = jax.tree.map(lambda a: jnp.stack([a] * 4), model.unet.project_text(jnp.ones((2, 7, 24))))
    term = denoise.Term(texts, None, None, VIEWS[view])
    keys = jax.random.split(jax.random.key(0), 4)
    gradient = jax.eval_shape(lambda *a: guide.gradient(term, *a), jnp.ones(4), jnp.ones((4, 12, 48)), keys)
    assert gradient.shape == (4, 12, 48)


def test_a_run_stops_for_progress_and_at_snapshots():
    assert sds.split_iterations(0, 3, {1, 2}) == [1, 2, 3]
    assert sds.split_iterations(38, 40, {5, 39}) == [39, 40]
    stops = sds.split_iterations(0, 10_000, {1234})
    assert np.diff([0, *stops]).max() == sds.BLOCK and 1234 in stops and stops[-1] == 10_000


# As a method


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline()


@pytest.fixture(scope="module")
def program(pipeline, expand):
    return pipeline.compile(expand(SDS)[0], pending=2, batch_size=8)


def test_a_sample_depends_on_its_seed_only_on_eight_devices(expand, program):
    steps = []
    one, two = program(expand(SDS), lambda found: steps.append((found.step, found.num_steps)))
    assert steps == [(1, 3), (2, 3), (3, 3)] and one.fault is None
    (again,) = program(expand(SDS, seed=1, num_samples=1), batch_index=5)
    np.testing.assert_allclose(again.latents, two.latents, atol=1e-5)
    assert np.abs(one.latents - two.latents).max() > 0.05
    np.testing.assert_allclose(one.spectrogram, np.round(one.latents * 255) / 255, atol=1e-7)
    np.testing.assert_allclose(one.image, np.repeat(one.spectrogram[..., None], 3, -1))
    assert one.audio.shape == (48 * 20,) and one.state_folder is None
    assert not re.search(COLLECTIVES, program.programs["denoise"].as_text())


def test_one_program_serves_any_number_of_iterations_in_any_blocks(expand, program, monkeypatch):
    (one_by_one,) = program(expand(SDS, num_samples=1))
    compilations, stops = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    monkeypatch.setattr(sds, "CALLS", 1)
    monkeypatch.setattr(sds, "SNAPSHOTS", 1)
    (at_once,) = program(expand(SDS, num_samples=1), lambda found: stops.append(found.step))
    assert stops == [3]
    np.testing.assert_array_equal(at_once.latents, one_by_one.latents)
    change = {"image.start_step": 2, "image.weight": 0.1, "audio.guidance_scale": 3.0, "learning_rate": 1e-3}
    (other,) = program(expand(SDS | change, num_samples=1, num_steps=4))
    assert not compilations and np.abs(other.latents - one_by_one.latents).max() > 1e-3


class SavedAtEachStop(sds.ScoreDistillation):
    """Saves its state whenever it could."""

    def __init__(self, *args, **options):
        super().__init__(*args, save_seconds=0, **options)


class Interrupted(Wrapped):
    """Lists the steps that are reported; interrupts the first run in its last step, after earlier ones were saved."""

    def __init__(self, program):
        super().__init__(program)
        self.steps = []

    def __call__(self, batch, on_progress, **more):
        first_run = not self.steps

        def report(found):
            self.steps.append(found.step)
            on_progress(found)
            if first_run and found.step == found.num_steps:
                raise KeyboardInterrupt

        return super().__call__(batch, report, **more)


def test_an_interrupted_run_continues_with_the_same_bits(small, expand, pipeline, program, tmp_path, monkeypatch):
    config, whole, workdir = small(SDS), tmp_path / "whole", tmp_path / "interrupted"
    sample.run(config, whole, FixedPipeline(program))
    method = dataclasses.replace(METHODS["sds"], implementation=f"{__name__}:SavedAtEachStop")
    monkeypatch.setitem(METHODS, "sds", method)
    interrupted = Interrupted(pipeline.compile(expand(SDS)[0], pending=2, batch_size=8, workdir=workdir))
    fixed = FixedPipeline(interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample.run(config, workdir, fixed)
    assert fixed.requests[0]["workdir"] == workdir
    (folder,) = (workdir / FOLDER).iterdir()
    assert (folder / "state_2").is_dir() and not (folder / "state_1").exists()
    shown = sorted(path.relative_to(folder).name for path in folder.glob("*/*.png"))
    assert shown == ["00000001.png"] * 2 + ["00000002.png"] * 2 and not list(workdir.glob("*/sample.json"))
    seconds = read_json(folder / "seconds.json")
    assert 0 < seconds["2"] < 1000
    write_json(folder / "seconds.json", {"2": seconds["2"] + 1000})  # as if it had taken longer
    interrupted.steps = [0]
    sample.run(config, workdir, fixed)
    assert interrupted.steps[1:] == [2, 3] and not (workdir / FOLDER).exists()
    assert len(list(whole.glob("*/"))) == 2
    for expected in whole.glob("*/"):
        record, other = (json.loads((w / expected.name / "sample.json").read_text()) for w in (whole, workdir))
        assert record["run"]["latents_sha256"] == other["run"]["latents_sha256"]
        assert record["seconds"]["denoise"] < 1000 < other["seconds"]["denoise"]  # with those before the interruption
        assert (expected / "audio.wav").read_bytes() == (workdir / expected.name / "audio.wav").read_bytes()


def test_a_sample_is_generated_again_from_its_file(small, program, tmp_path):
    sample.run(small(SDS), tmp_path / "out", FixedPipeline(program))
    first, second = (tmp_path / "out").glob("*/")
    for folder in (first, second):
        sample.run_again(folder / "spectrogram.png", tmp_path / "again", FixedPipeline(program))
        again = tmp_path / "again" / folder.name / "spectrogram.png"
        assert again.read_bytes() == (folder / "spectrogram.png").read_bytes()


def test_settings_that_the_method_does_not_use_are_refused(expand):
    for change, words in [
        ({"wrap": True}, "wrap=True: method='sds' does not use it"),
        ({"cutoff_latent": True}, "cutoff_latent=True"),
        ({"cache_interval": 2}, "cache_interval: method='sds'"),
        ({"noise": "torch"}, "noise='torch': method='sds'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: must be above 0"),
        ({"init_image": __file__}, "init_image="),
    ]:
        with pytest.raises(UserError, match=words):
            expand(SDS | change)
    with pytest.raises(UserError, match="devices_per_sample=2: method='sds' has 1"):
        Pipeline().compile(expand(SDS)[0], devices_per_sample=2)
    assert total_steps(expand(SDS, num_steps=40_000)[0]) == 40_000
