"""Score distillation against PyTorch, and as a method among the others: batches, devices, kills, files."""

import functools
import json
import re
import shutil
import types

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from its_jax import pretrained, sample
from its_jax.diffusion import denoise
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.pipeline import prompts
from its_jax.pipeline.methods import sds_latent, sds_loop, subclasses
from its_jax.pipeline.methods.resume import FOLDER, ResumeState
from its_jax.pipeline.sampler import Sampler
from its_jax.settings.parse import read_settings
from its_jax.settings.steps import total_steps
from tests.helpers.collectives import COLLECTIVES
from tests.helpers.torch_twins import jit

SDS = {"method": "sds", "num_steps": 3, "learning_rate": 1e-2, "num_samples": 2, "batch_size": 8}
SIZE = 12, 48


class TorchNetwork(torch.nn.Module):
    """The picture's network as it is written in PyTorch, in training mode throughout."""

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


def twin_of(network):
    twin = TorchNetwork()
    for place, conv in zip((0, 3, 6), network.convs, strict=True):
        twin.net[place].weight.data = torch.tensor(np.asarray(conv.kernel[...]).T[..., None, None])
        twin.net[place].bias.data = torch.tensor(np.asarray(conv.bias[...]))
    return twin


def first_of(tree):
    return jax.tree.map(lambda a: a[0], tree)


def test_a_model_that_gives_nothing_finite_is_not_taken_for_one_that_agrees():
    """A few numbers that are not finite count as zero, as the authors have it; a whole sample of them does not."""
    z = jnp.zeros((2, 2, 4, 4))
    given = z.at[0, 0, 0, 0].set(jnp.nan).at[1].set(jnp.nan)
    unet = types.SimpleNamespace(each=lambda x, t, text: jnp.repeat(given, len(x) // 2, axis=0))
    model = sds_latent.LatentGuide(unet, None, jnp.full(1000, 0.5))
    term = denoise.Term(jnp.zeros((2, 2, 1)), None, None)
    g = sds_latent.sds_gradient(model, term, jnp.ones(2), z, jnp.int32([5, 5]), z + 1)
    np.testing.assert_array_equal(g[0, 0, 0], [0, -0.5, -0.5, -0.5])
    assert jnp.isnan(g[1]).all()


@pytest.mark.usefixtures("highest_precision")
def test_an_iteration_is_that_of_pytorch(sources, models):
    """Gradient of the loss as it is stated, through PyTorch's own encoder, and AdamW's step."""
    model = pretrained.load_model(models["image.model"], components=("unet", "vae"), dtype=jnp.float32)
    unet = diffusers.UNet2DConditionModel.from_pretrained(sources / "image" / "unet")
    vae = diffusers.AutoencoderKL.from_pretrained(sources / "image" / "vae")
    alphas = model.schedule.alphas_cumprod().astype(np.float32)
    rng = np.random.default_rng(0)
    text = rng.normal(size=(2, 7, 24)).astype(np.float32)
    eps, eps_posterior = rng.normal(size=(2, 1, 6, 24, 4)).astype(np.float32)
    state = sds_loop.initial_state(np.uint32([5]))
    network, frequencies = first_of(state.network), np.asarray(state.frequencies[0])
    t, scale, weight, rate = 300, 7.5, 0.4, 1e-2

    twin = twin_of(network)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=rate, weight_decay=1e-3)
    picture = twin(torch.from_numpy(frequencies))
    chw = lambda a: torch.from_numpy(np.moveaxis(a, -1, 1).copy())  # noqa: E731
    posterior = vae.encode(picture.repeat(1, 3, 1, 1) * 2 - 1).latent_dist
    z = (posterior.mean + posterior.std * chw(eps_posterior)) * vae.config.scaling_factor
    with torch.no_grad():
        a = float(alphas[t])
        x = a**0.5 * z + (1 - a) ** 0.5 * chw(eps)
        negative, positive = unet(x.repeat(2, 1, 1, 1), t, torch.from_numpy(text)).sample.chunk(2)
        grad = torch.nan_to_num((1 - a) * (negative + scale * (positive - negative) - chw(eps)))
        target = z - grad
    loss = weight * 0.5 * torch.nn.functional.mse_loss(z, target, reduction="sum") / len(z)
    picture.retain_grad()
    loss.backward()
    optimizer.step()

    drawn = sds_loop.images(state, size=SIZE)
    np.testing.assert_allclose(drawn[0], picture[0, 0].detach(), atol=1e-5)
    unet = prompts.precompute_unet(model.unet, model.schedule.num_train_timesteps)
    term = denoise.Term(model.unet.project_text(jnp.asarray(text)), None, None)
    term = denoise.Term(jax.tree.map(lambda a: a[None], term.texts), None, None)
    critic = sds_latent.LatentGuide(unet, model.vae, alphas)

    def latent(vae, picture):
        moments = vae.encode(jnp.repeat(picture[..., None], 3, -1) * 2 - 1)
        return (moments.mean + jnp.exp(0.5 * moments.log_variance) * eps_posterior) * 0.18215

    z_ours = jit(latent)(model.vae, drawn)
    g = jit(sds_latent.sds_gradient)(critic, term, jnp.float32([scale]), z_ours, jnp.int32([t]), eps)
    np.testing.assert_allclose(np.moveaxis(np.asarray(g), -1, 1), grad, atol=2e-5 * float(grad.abs().max()))
    of_picture = weight * jit(lambda vae, x, g: jax.vjp(functools.partial(latent, vae), x)[1](g)[0])(
        model.vae, drawn, g
    )
    expected = picture.grad[0, 0].numpy()
    np.testing.assert_allclose(of_picture[0], expected, atol=1e-4 * np.abs(expected).max())
    after = first_of(sds_loop._step(state, drawn, of_picture, jnp.float32([rate]), 0).network)
    # Adam's first step is the sign of a gradient: where that is tiny, rounding decides.
    for place, conv in zip((0, 3, 6), after.convs, strict=True):
        weight = twin.net[place].weight.detach().numpy()[..., 0, 0].T
        apart = np.abs(np.asarray(conv.kernel[...]) - weight) > 1e-5
        assert apart.mean() < 1e-2
    (now,) = sds_loop.images(sds_loop._step(state, drawn, of_picture, jnp.float32([rate]), 0), size=SIZE)
    np.testing.assert_allclose(now, twin(torch.from_numpy(frequencies))[0, 0].detach(), atol=5e-3)


@pytest.mark.parametrize("view", ["rotate_90", "block_rearrange"])
def test_a_gradient_lies_as_the_spectrogram_does(models, view):
    model = pretrained.load_model(models["image.model"], components=("unet", "vae"), dtype=jnp.float32)
    unet = prompts.precompute_unet(model.unet, model.schedule.num_train_timesteps)
    critic = sds_latent.LatentGuide(unet, model.vae, jnp.asarray(model.schedule.alphas_cumprod(), jnp.float32))
    texts = jax.tree.map(lambda a: jnp.stack([a] * 4), model.unet.project_text(jnp.ones((2, 7, 24))))
    term = denoise.Term(texts, None, None, VIEWS[view])
    keys = jax.random.split(jax.random.key(0), 4)
    gradient = jax.eval_shape(lambda *a: critic.gradient(term, *a), jnp.ones(4), jnp.ones((4, 12, 48)), keys)
    assert gradient.shape == (4, 12, 48)


# As a method


pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def expand(small):
    return lambda *change, **more: read_settings(small(*change, **more).to_dict())[0]


@pytest.fixture(scope="module")
def distiller(expand):
    return subclasses.sampler_for(expand(SDS)[0], None, Sampler, pending=2, batch_size=8)


@pytest.fixture
def shared(distiller, monkeypatch):
    """Runs take the one sampler, with a work folder of their own."""

    def take(settings, *, workdir, **how):
        monkeypatch.setattr(distiller, "_workdir", workdir)
        return distiller

    monkeypatch.setitem(subclasses.SAMPLERS, "sds", take)
    monkeypatch.setattr(subclasses, "BLOCK", 1)
    return distiller


def test_a_sample_depends_on_its_seed_alone_on_eight_devices(expand, distiller):
    done = []
    one, two = distiller(expand(SDS), done.append)
    assert sum(done) == 2 * 3 and one.fault is None
    (again,) = distiller(expand(SDS, seed=1, num_samples=1), position=5)
    np.testing.assert_allclose(again.latents, two.latents, atol=1e-5)
    assert np.abs(one.latents - two.latents).max() > 0.05
    np.testing.assert_allclose(one.spectrogram, np.round(one.latents * 255) / 255, atol=1e-7)
    np.testing.assert_allclose(one.pictures["image"], np.repeat(one.spectrogram[..., None], 3, -1))
    assert one.waveform.shape == (48 * 20,)
    assert not re.search(COLLECTIVES, distiller._denoise.as_text())


def test_one_program_for_any_number_of_iterations(expand, distiller, monkeypatch):
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    (whole,) = distiller(expand(SDS)[:1])
    monkeypatch.setattr(subclasses, "BLOCK", 2)
    (in_parts,) = distiller(expand(SDS)[:1])
    np.testing.assert_array_equal(whole.latents, in_parts.latents)
    change = {"image.start_step": 2, "image.weight": 0.1, "audio.guidance_scale": 3.0, "learning_rate": 1e-3}
    (other,) = distiller(expand(SDS | change, num_samples=1, num_steps=4))
    assert not compilations and np.abs(other.latents - whole.latents).max() > 1e-3


def test_a_run_that_was_killed_goes_on_with_the_same_bits(small, shared, tmp_path, monkeypatch):
    config = small(SDS, num_samples=2)
    sample.run(config, tmp_path / "whole")
    workdir, save = tmp_path / "killed", ResumeState.save
    monkeypatch.setattr(subclasses, "SAVE_SECONDS", 0)

    def saved_then_killed(self, state, k, seconds):
        save(self, state, k, seconds + 1000)
        if k == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResumeState, "save", saved_then_killed)
    with pytest.raises(KeyboardInterrupt):
        sample.run(config, workdir)
    (folder,) = (workdir / FOLDER).iterdir()
    assert (folder / "state_2").is_dir() and not (folder / "state_1").exists()
    shown = sorted(path.relative_to(folder).name for path in folder.glob("*/*.png"))
    assert shown == ["00000001.png"] * 2 + ["00000002.png"] * 2 and not list(workdir.glob("*/sample.json"))
    asked, run = [], shared._denoise
    monkeypatch.setattr(ResumeState, "save", save)
    monkeypatch.setattr(shared, "_denoise", lambda *a: asked.append(int(a[-2])) or run(*a))
    sample.run(config, workdir)
    assert asked == [2] and not (workdir / FOLDER).exists()
    for made in (tmp_path / "whole").glob("*/"):
        record, other = (json.loads((w / made.name / "sample.json").read_text()) for w in (tmp_path / "whole", workdir))
        assert record["run"]["latents_sha256"] == other["run"]["latents_sha256"]
        assert record["seconds"]["denoise"] < 1000 < other["seconds"]["denoise"]  # those before the kill count too
        assert (made / "audio.wav").read_bytes() == (workdir / made.name / "audio.wav").read_bytes()
    shutil.rmtree(workdir)
    (one, _) = (tmp_path / "whole").glob("*/")
    sample.run_again(one / "spectrogram.png", tmp_path / "again")
    again = (tmp_path / "again" / one.name / "spectrogram.png").read_bytes()
    assert again == (one / "spectrogram.png").read_bytes()


def test_settings_that_make_no_sense_for_it_are_refused(expand, distiller):
    for change, words in [
        ({"wrap": True}, "wrap=True: method='sds' has no use for it"),
        ({"cutoff_latent": True}, "cutoff_latent=True"),
        ({"cache_interval": 2}, "cache_interval: method='sds'"),
        ({"noise": "torch"}, "noise='torch': method='sds'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: must be above 0"),
        ({"init_image": __file__}, "init_image="),
    ]:
        with pytest.raises(UserError, match=words):
            expand(SDS | change)
    with pytest.raises(UserError, match="devices_per_sample=2: method='sds' has 1"):
        subclasses.sampler_for(expand(SDS)[0], None, Sampler, pending=1, devices_per_sample=2)
    assert total_steps(expand(SDS, num_steps=40_000)[0]) == 40_000
