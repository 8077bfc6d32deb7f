"""The CLIP and the CLAP that come with the package."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from its_jax.models import state_dict
from its_jax.models.clap import ClapConfig, ClapModel
from its_jax.models.clip import CLIPConfig, CLIPModel
from its_jax.pipeline.prompts import tokenize
from its_jax.storage.files import read_json
from its_jax.tiny.data import items, pictures, sounds
from its_jax.tiny.judges import WEIGHTS
from its_jax.tiny.recipe import dual_encoder
from its_jax.tiny.training import clap, clip, contrastive
from tests.helpers.torch_twins import TOLERANCE, jit

SPLIT = "contrast_held_out"
CAPTIONS = {
    "clip": ["a painting of trees, grayscale", "dogs", "a xylophone"],
    "clap": ["train whistling", "the sound of a bell ringing", "Purring!"],
}


def load(kind):
    """Loads a shipped model in float32."""
    model, config = {"clip": (CLIPModel, CLIPConfig), "clap": (ClapModel, ClapConfig)}[kind]
    abstract = state_dict.abstract_arrays(model, config.from_dict(read_json(WEIGHTS / kind / "config.json")))
    return state_dict.load_state_dict(abstract, load_file(WEIGHTS / kind / "model.safetensors"), name=kind)


def test_the_weights_of_the_dual_encoders_take_at_most_2_4_mb():
    files = [file for kind in dual_encoder.KINDS for file in (WEIGHTS / kind).iterdir()]
    assert sum(file.stat().st_size for file in files) <= 2.4e6


@pytest.mark.parametrize("kind", dual_encoder.KINDS)
def test_the_recipe_writes_the_shipped_config_files(kind, tmp_path):
    dual_encoder.write_folder(kind, tmp_path)
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert written == {name: (WEIGHTS / kind / name).read_bytes() for name in written}


def test_clip_retrieves_the_captions_of_images():
    model, count = load("clip"), 36
    images = clip.embed_canvases(model, items.make_pictures(SPLIT, count) / np.float32(255))
    tokenizer = dual_encoder.tokenizer("clip")
    texts = contrastive.embed_captions(model, tokenizer, pictures.caption, items.SUBJECTS, count)
    assert contrastive.retrieval(images, texts) >= 0.95


def test_clap_retrieves_the_captions_of_sounds():
    model, count = load("clap"), 36
    audio = clap.embed_log_mels(model, clap.preprocess(items.make_waveforms(SPLIT, range(count))))
    tokenizer = dual_encoder.tokenizer("clap")
    texts = contrastive.embed_captions(model, tokenizer, sounds.caption, items.SOUNDS, count)
    assert contrastive.retrieval(audio, texts) >= 0.95


def embed(model, what, x):
    """Returns the embeddings of images, sounds or texts."""
    return jit(lambda model, x: getattr(model, f"embed_{what}")(x))(model, x)


def test_transformers_opens_clip_and_agrees(highest_precision):
    folder, ours = WEIGHTS / "clip", load("clip")
    theirs, problems = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(problems.values())
    image = items.make_pictures(SPLIT, 1)[0]
    windows = [np.repeat(image[:, i : i + 128, None], 3, axis=-1) for i in (0, 100, 300)]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(windows, return_tensors="pt").pixel_values
    x = np.stack([dual_encoder.image_processor()(window) for window in windows])
    np.testing.assert_allclose(x, pixels.permute(0, 2, 3, 1), rtol=0, atol=1e-5)
    ids = transformers.CLIPTokenizer.from_pretrained(folder)(CAPTIONS["clip"], padding="max_length").input_ids
    np.testing.assert_array_equal(tokenize(dual_encoder.tokenizer("clip"), CAPTIONS["clip"]), ids)
    with torch.no_grad():
        theirs = theirs.float()(input_ids=torch.tensor(ids), pixel_values=pixels)
    np.testing.assert_allclose(embed(ours, "image", x), theirs.image_embeds, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(embed(ours, "text", np.array(ids)), theirs.text_embeds, rtol=0, atol=TOLERANCE)


def test_transformers_opens_clap_and_agrees(highest_precision):
    folder, ours = WEIGHTS / "clap", load("clap")
    theirs = transformers.ClapModel.from_pretrained(folder)
    waveforms = items.make_waveforms(SPLIT, range(3))
    waveforms = waveforms / np.abs(waveforms).max(axis=1, keepdims=True)
    extract = transformers.ClapFeatureExtractor.from_pretrained(folder)
    features = extract(list(waveforms), sampling_rate=16000, return_tensors="pt").input_features
    log_mels = clap.preprocess(waveforms)
    # Below -70 dB there is silence, where only the rounding of float32 differs.
    np.testing.assert_allclose(np.maximum(log_mels, -70), features[:, 0].clamp(min=-70), rtol=0, atol=1e-3)
    tokenizer = transformers.RobertaTokenizer.from_pretrained(folder)
    encoded = tokenizer(CAPTIONS["clap"], padding="max_length", return_tensors="pt")
    np.testing.assert_array_equal(tokenize(dual_encoder.tokenizer("clap"), CAPTIONS["clap"]), encoded.input_ids)
    with torch.no_grad():
        theirs = theirs.float()(input_features=torch.from_numpy(log_mels[:, None]), **encoded)
    np.testing.assert_allclose(embed(ours, "audio", log_mels), theirs.audio_embeds, rtol=0, atol=TOLERANCE)
    texts = embed(ours, "text", encoded.input_ids.numpy())
    np.testing.assert_allclose(texts, theirs.text_embeds, rtol=0, atol=TOLERANCE)
