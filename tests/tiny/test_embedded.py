"""The models that come with the package: their size, their layout, and the quality of their samples."""

import runpy
from pathlib import Path

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from its_jax import pretrained
from its_jax.colorize.factorized_colorizer import FactorizedColorizer
from its_jax.colorize.settings import ColorSettings
from its_jax.pipeline.pipeline import Pipeline
from its_jax.pipeline.placement import DataParallel, data_mesh
from its_jax.settings.schema import TERMS
from its_jax.storage.files import read_json
from its_jax.tiny import judges
from its_jax.tiny.data import colors, items, pictures
from its_jax.tiny.recipe import latent

ROOT = Path(__file__).parents[2]
WEIGHTS = judges.WEIGHTS


def default_config():
    """Returns the settings of the default config."""
    return runpy.run_path(ROOT / "configs" / "default.py")["get_config"]().to_dict()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITS_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_the_weights_are_small():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 60e6


def test_the_record_of_the_training_is_complete():
    record = read_json(WEIGHTS / "training.json")
    stages = record["stages"]
    names = {"vae", "image", "audio", "vocoder", "judge_picture", "judge_sound", "clip", "clap", "color"}
    assert stages.keys() == names
    assert all(stage["seconds"] > 0 and stage["machine"] for stage in stages.values())
    assert min(stages["vae"]["psnr_pictures_db"], stages["vae"]["psnr_spectrograms_db"]) >= 30
    assert stages["vocoder"]["hifigan_error_spectrograms"] <= 0.03
    assert min(stages[f"judge_{kind}"]["held_out"] for kind in judges.KINDS) >= 0.98
    assert min(stages[kind]["held_out"] for kind in ("clip", "clap")) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("kind", latent.KINDS)
def test_diffusers_and_transformers_open_the_latent_models_and_agree(kind, highest_precision):
    folder = WEIGHTS / kind
    model = pretrained.load_model(f"tiny/{kind}", components=("text_encoder", "unet", "vae"), dtype=jnp.float32)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    ids = tokenizer("bell", padding="max_length", return_tensors="np").input_ids
    z = np.random.default_rng(0).standard_normal((1, 16, 16, 4), np.float32)
    with torch.no_grad():
        text_encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").float()
        unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").float()
        vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").float()
        text = text_encoder(torch.tensor(ids)).last_hidden_state
        latents = torch.tensor(z.transpose(0, 3, 1, 2))
        theirs = (
            text,
            unet(latents, torch.tensor([500]), text).sample.permute(0, 2, 3, 1),
            vae.decode(latents / vae.config.scaling_factor).sample.permute(0, 2, 3, 1),
        )
    our_text = model.text_encoder(ids)
    ours = (our_text, model.unet(z, np.array([500]), our_text), model.vae.decode(z / model.vae.config.scaling_factor))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(np.abs(b).max()))


@pytest.mark.slow
def test_diffusers_and_transformers_open_the_pixel_model_and_agree(highest_precision):
    folder = WEIGHTS / "color"
    model = pretrained.load_model("tiny/color", components=("text_encoder", "unet"), dtype=jnp.float32)
    ids = transformers.T5Tokenizer.from_pretrained(folder / "tokenizer")("a photo of trees", return_tensors="np")
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3), np.float32)
    with torch.no_grad():
        text_encoder = transformers.T5EncoderModel.from_pretrained(folder / "text_encoder").float()
        unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").float()
        text = text_encoder(torch.tensor(ids.input_ids)).last_hidden_state
        noise = unet(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor([500]), text).sample.permute(0, 2, 3, 1)
    our_text = model.text_encoder(ids.input_ids)
    for a, b in zip((our_text, model.unet(x, np.array([500]), our_text)), (text, noise), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(np.abs(b).max()))


@pytest.mark.slow
def test_most_colored_images_have_the_usual_colors_of_their_subject():
    settings = runpy.run_path(ROOT / "configs" / "colorize.py")["get_config"]().to_dict()["colorize"]
    prompts = [f"a colorful photo of {pictures.SUBJECTS[subject][0]}" for subject in items.SUBJECTS]
    subjects = enumerate(items.SUBJECTS)
    gray = np.stack([pictures.draw(subject, items.generator("picture", "held_out", i)) for i, subject in subjects])
    one_device = DataParallel(data_mesh(jax.devices()[:1]))
    colorizer = FactorizedColorizer(ColorSettings.from_dict(settings), prompts, one_device)
    colored = colorizer(gray, prompts, list(range(len(prompts))))
    assert np.abs(colored.mean(axis=-1) - gray).max() < 1e-5
    usual = [
        colors.dominant_hue(image) in colors.usual_hues(name)
        for name, image in zip(items.SUBJECTS, colored, strict=True)
    ]
    assert np.mean(usual) >= 0.75, usual


@pytest.mark.slow
def test_the_judges_recognize_the_prompts_of_the_default_config():
    pipe = Pipeline.from_settings(default_config() | {"batch_size": 4}, devices=jax.devices()[:1])
    samples = pipe(num_samples=4)
    images = np.stack([sample.spectrogram for sample in samples])
    heard = items.to_spectrogram(np.stack([sample.audio for sample in samples]))
    picture = judges.classify(judges.load("picture"), images) == items.SUBJECTS.index("tree")
    sound = judges.classify(judges.load("sound"), heard) == items.SOUNDS.index("train")
    # Most rather than all: the bits differ between machines, so a sample may fail.
    assert np.mean(picture & sound) >= 0.75, (picture, sound)


def test_the_record_of_the_quality_is_of_these_weights_and_settings():
    """The record is that of `python -m its_jax.tiny.evaluate`."""
    record = read_json(WEIGHTS / "evaluation.json")
    settings = default_config()
    for term in TERMS:
        then = record["settings"].pop(term) | {"prompt": settings[term]["prompt"]}  # Each sample has its own prompt.
        assert then.items() <= settings[term].items()
        model = pretrained.load_model(f"tiny/{term}", components=(), dtype=jnp.float32)
        assert record["models"][term] == model.identity
    assert record["settings"].items() <= settings.items()
    assert record["counts"]["fused"] == 4 * len(items.SUBJECTS) * len(items.SOUNDS)
    assert min(record["image"]["picture"], record["audio"]["sound"]) >= 0.98
    fused = record["fused"]
    assert fused["both"] >= 0.75 and fused["vocoder_error"] <= 0.04
    assert fused["sound"] >= fused["sound_griffin_lim"] - 0.02
    assert all(fused["error_mean"] < 0.7 * record[name]["error_mean"] for name in ("pixel_average", "pixel_maximum"))
