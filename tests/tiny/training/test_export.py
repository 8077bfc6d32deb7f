"""The export of untrained models."""

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file

from its_jax import pretrained
from its_jax.models.state_dict import to_state_dict
from its_jax.storage.files import write_json
from its_jax.tiny import judges
from its_jax.tiny.data import items
from its_jax.tiny.recipe import canvas, dual_encoder, latent, pixel, tokenizers
from its_jax.tiny.training import export, loop, vocoder
from tests.helpers.compilation import few_optimizations

pytestmark = pytest.mark.slow  # all untrained models are exported first


@pytest.fixture(scope="module")
def models():
    """Untrained models by name."""
    with few_optimizations():  # Each is initialized only once.
        made = {"vae": latent.random_vae(), "vocoder": vocoder.initial_vocoder(), "color": pixel.random_text_and_unet()}
        made |= {kind: latent.random_text_and_unet(kind) for kind in latent.KINDS}
        made |= {f"judge_{kind}": judges.Judge(rngs=nnx.Rngs(0)) for kind in judges.KINDS}
        made |= {"clip": dual_encoder.random_clip(), "clap": dual_encoder.random_clap()}
    return made


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    """The export of these models."""
    workdir = tmp_path_factory.mktemp("tiny")
    for name, module in models.items():
        loop.save_result(workdir / name, nnx.state(module))
        write_json(workdir / f"{name}.json", {"latent_std": 2.0})
    export.export(workdir)
    return workdir / "export"


def test_diffusers_and_transformers_open_the_export(folder, models, highest_precision):
    rng = np.random.default_rng(0)
    x, text = rng.standard_normal((1, 16, 16, 4), np.float32), rng.standard_normal((1, 16, 96), np.float32)
    ids = rng.integers(0, 600, (1, 16))

    def channels_first(a):
        return torch.tensor(a.transpose(0, 3, 1, 2))

    with torch.no_grad():
        unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "image" / "unet").float()
        vae = diffusers.AutoencoderKL.from_pretrained(folder / "image" / "vae").float()
        encoder = transformers.CLIPTextModel.from_pretrained(folder / "image" / "text_encoder").float()
        theirs = (
            unet(channels_first(x), torch.tensor([7]), torch.tensor(text)).sample.permute(0, 2, 3, 1),
            vae.decode(channels_first(x)).sample.permute(0, 2, 3, 1),
            encoder(torch.tensor(ids)).last_hidden_state,
        )
    assert vae.config.scaling_factor == 0.5
    image = models["image"]
    ours = image.unet(x, np.array([7]), text), models["vae"].decode(x), image.text_encoder(ids)
    for a, b in zip(ours, theirs, strict=True):
        # The export is float16: 11 bits for each weight.
        np.testing.assert_allclose(a, b, atol=5e-3 * float(np.abs(b).max()))


def test_the_export_loads_as_a_model(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path))
    image = pretrained.load_model(str(folder / "image"), components=("text_encoder", "unet", "vae"), dtype=jnp.float32)
    audio = pretrained.load_model(str(folder / "audio"), dtype=jnp.float32, share=[image])
    assert image.vae is audio.vae
    assert image.schedule == audio.schedule
    assert image.vocabulary == frozenset(tokenizers.vocabulary("image"))
    assert audio.vocoder.config.num_mels == canvas.HEIGHT


def test_exported_judges_give_the_same_logits(folder, models):
    x = items.make_pictures("train", 2) / np.float32(255)
    judge = judges.load("picture", folder)
    np.testing.assert_allclose(judge(x), models["judge_picture"](x), atol=5e-3)


@pytest.mark.parametrize("kind", dual_encoder.KINDS)
def test_exported_dual_encoders_have_the_trained_weights(kind, folder, models):
    exported, trained = load_file(folder / kind / "model.safetensors"), to_state_dict(models[kind])
    assert exported.keys() == trained.keys()
    for name, value in trained.items():
        np.testing.assert_allclose(exported[name], value, rtol=1e-3, atol=1e-6, err_msg=name)
