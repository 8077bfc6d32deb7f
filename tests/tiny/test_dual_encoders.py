"""The embedded CLIP and CLAP: their training, their folders, and what they find."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from its_jax.pipeline.prompts import tokenize
from its_jax.tiny import modules, recipe
from its_jax.tiny.data import items as data_items
from its_jax.tiny.data import pictures, sounds
from its_jax.tiny.training import clap, clip, contrastive, dual_encoder_folder, export, loop
from tests.helpers.torch_twins import TOLERANCE, jit

SPLIT = "contrast_held_out"
SOURCES = {"clip": (pictures, data_items.SUBJECTS), "clap": (sounds, data_items.SOUNDS)}
CAPTIONS = {
    "clip": ["a painting of trees, grayscale", "dogs", "a xylophone"],
    "clap": ["train whistling", "the sound of a bell ringing", "Purring!"],
}


def test_a_round_has_one_item_of_each_class():
    chosen = contrastive.rounds(np.random.default_rng(0), 36, 24)
    assert chosen.max() < 36 and len(set(chosen)) > 12
    np.testing.assert_array_equal(chosen % 12, data_items.labels(24))


def test_pairs_are_told_from_the_others_of_their_round():
    directions = np.random.default_rng(0).standard_normal((24, 8), np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = directions[:12] @ directions[:12].T
    chances = np.exp(2 * cosines) / np.exp(2 * cosines).sum(axis=1, keepdims=True)
    one = contrastive.info_nce(directions[:12], directions[:12], np.log(2.0), np.log(2.0))
    np.testing.assert_allclose(one, -np.log(np.diag(chances)).mean(), rtol=1e-5)
    other = contrastive.info_nce(directions[12:], directions[12:], np.log(2.0), np.log(2.0))
    both = contrastive.info_nce(directions, directions, np.log(2.0), np.log(2.0))
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-5)
    assert contrastive.info_nce(directions, np.roll(directions, 1, axis=0), np.log(2.0), np.log(2.0)) > both


@pytest.mark.parametrize("kind", dual_encoder_folder.KINDS)
def test_all_of_it_is_trained_but_statistics(kind, monkeypatch):
    shallow = {"text_config": {"num_hidden_layers": 1}, "vision_config": {"num_hidden_layers": 1}}
    shallow["audio_config"] = {"depths": [1, 1, 1]}
    settings = dual_encoder_folder.config(kind)
    settings = settings | {name: settings[name] | less for name, less in shallow.items() if name in settings}
    monkeypatch.setattr(dual_encoder_folder, "config", lambda kind: settings)
    model = modules.embedder(kind)
    rng = np.random.default_rng(0)
    ids = tokenize(
        dual_encoder_folder.tokenizer(kind), [SOURCES[kind][0].caption(name, rng) for name in SOURCES[kind][1]]
    )
    x = rng.standard_normal((12, 64, 64, 3) if kind == "clip" else (12, 256, 64), np.float32)
    graph, params = nnx.split(model)
    loss = {"clip": clip.loss, "clap": clap.loss}[kind]
    gradient = jit(jax.grad(lambda params: loss(nnx.merge(graph, params), {"x": x, "tokens": ids})))(params)
    still = {path for path, value in nnx.to_flat_state(gradient) if not jnp.any(value[...])}
    assert not still
    if kind == "clap":
        rates = jax.tree_util.tree_leaves_with_path(clap.rates(params))
        kept = [
            re.search("running_mean|running_var|$", jax.tree_util.keystr(path))[0] for path, rate in rates if rate == 0
        ]
        assert set(kept) == {"running_mean", "running_var"}


def test_words_of_sounds_are_whole(tmp_path):
    words = recipe.vocabulary("audio")
    size = dual_encoder_folder.write_roberta_tokenizer(tmp_path, words)
    tokenizer = transformers.RobertaTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size and tokenizer.pad_token_id == 1
    rng = np.random.default_rng(0)
    for caption in [sounds.caption(name, rng) for name in data_items.SOUNDS for _ in range(20)]:
        assert [piece.removeprefix("Ġ") for piece in tokenizer.tokenize(caption)] == caption.split()
        assert len(tokenizer(caption).input_ids) <= recipe.TEXT_LENGTH
    assert len(tokenizer.tokenize("xylophone")) > 1


def test_they_are_small():
    files = [file for kind in dual_encoder_folder.KINDS for file in (dual_encoder_folder.WEIGHTS / kind).iterdir()]
    assert sum(file.stat().st_size for file in files) <= 2.4e6


@pytest.mark.parametrize("kind", dual_encoder_folder.KINDS)
def test_their_folder_is_the_recipes(kind, tmp_path):
    dual_encoder_folder.write(kind, tmp_path)
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert written == {name: (dual_encoder_folder.WEIGHTS / kind / name).read_bytes() for name in written}


def test_an_export_is_what_was_trained(tmp_path):
    model = modules.embedder("clap")
    loop.save_result(tmp_path / "clap", nnx.state(model))
    export.export_embedder(tmp_path, "clap")
    loaded = dual_encoder_folder.load("clap", tmp_path / "export")
    for ours, theirs in zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(loaded)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", dual_encoder_folder.KINDS)
def test_they_find_the_caption(kind):
    model = dual_encoder_folder.load(kind)
    count = 36
    if kind == "clip":
        items = clip.embed_canvases(model, data_items.make_pictures(SPLIT, count) / np.float32(255))
    else:
        items = clap.embed_sounds(model, clap.prepared(data_items.make_waveforms(SPLIT, range(count))))
    texts = contrastive.texts_of_all(model, dual_encoder_folder.tokenizer(kind), *SOURCES[kind], count)
    assert contrastive.retrieval(items, texts) >= 0.95


def embedded(model, what, x):
    return jit(lambda model, x: getattr(model, f"embed_{what}")(x))(model, x)


def test_transformers_opens_clip(highest_precision):
    folder, ours = dual_encoder_folder.WEIGHTS / "clip", dual_encoder_folder.load("clip")
    theirs, told = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values())
    canvas = data_items.make_pictures(SPLIT, 1)[0]
    windows = [np.repeat(canvas[:, i : i + 128, None], 3, axis=-1) for i in (0, 100, 300)]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(windows, return_tensors="pt").pixel_values
    x = np.stack([dual_encoder_folder.features("clip")(window) for window in windows])
    np.testing.assert_allclose(x, pixels.permute(0, 2, 3, 1), rtol=0, atol=1e-5)
    ids = transformers.CLIPTokenizer.from_pretrained(folder)(CAPTIONS["clip"], padding="max_length").input_ids
    np.testing.assert_array_equal(tokenize(dual_encoder_folder.tokenizer("clip"), CAPTIONS["clip"]), ids)
    with torch.no_grad():
        theirs = theirs.float()(input_ids=torch.tensor(ids), pixel_values=pixels)
    np.testing.assert_allclose(embedded(ours, "picture", x), theirs.image_embeds, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(embedded(ours, "text", np.array(ids)), theirs.text_embeds, rtol=0, atol=TOLERANCE)


def test_transformers_opens_clap(highest_precision):
    folder, ours = dual_encoder_folder.WEIGHTS / "clap", dual_encoder_folder.load("clap")
    theirs = transformers.ClapModel.from_pretrained(folder)
    waveforms = data_items.make_waveforms(SPLIT, range(3))
    waveforms = waveforms / np.abs(waveforms).max(axis=1, keepdims=True)
    extract = transformers.ClapFeatureExtractor.from_pretrained(folder)
    heard = extract(list(waveforms), sampling_rate=16000, return_tensors="pt").input_features
    log_mels = clap.prepared(waveforms)
    # Below -70 dB there is silence, of which the rounding of float32 is heard.
    np.testing.assert_allclose(np.maximum(log_mels, -70), heard[:, 0].clamp(min=-70), rtol=0, atol=1e-3)
    encoded = transformers.RobertaTokenizer.from_pretrained(folder)(
        CAPTIONS["clap"], padding="max_length", return_tensors="pt"
    )
    np.testing.assert_array_equal(tokenize(dual_encoder_folder.tokenizer("clap"), CAPTIONS["clap"]), encoded.input_ids)
    with torch.no_grad():
        theirs = theirs.float()(input_features=torch.from_numpy(log_mels[:, None]), **encoded)
    np.testing.assert_allclose(embedded(ours, "sound", log_mels), theirs.audio_embeds, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(
        embedded(ours, "text", encoded.input_ids.numpy()), theirs.text_embeds, rtol=0, atol=TOLERANCE
    )
