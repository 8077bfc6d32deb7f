"""CLIP and CLAP scores from checkpoints of transformers, against PyTorch's and torchmetrics' computation."""

import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest
import scipy.signal
import torch
import transformers
from torchmetrics.functional.multimodal import clip_score
from transformers.models.clap.feature_extraction_clap import ClapFeatureExtractor

from convert import check, conversion, sources
from its_jax import pretrained
from its_jax.errors import UserError
from its_jax.scoring import clip_clap, registry
from its_jax.scoring.item import Item
from its_jax.settings.ids import sample_id
from tests.helpers import dual_encoder_folder as dual_folder
from tests.helpers.sample_settings import default_settings

PROMPT, SOUND = "a cat and a dog", "a bell"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITS_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "clip"
    return folder, dual_folder.build_clip(folder)


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "clap"
    return folder, dual_folder.build_clap(folder)


@pytest.fixture(scope="module")
def gray():
    """A picture `[32, 124]` in 256 levels, and as fine as one."""
    rng = np.random.default_rng(0)
    return np.round(np.clip(np.kron(rng.random((8, 31)), np.ones((4, 4))) * 255, 0, 255)).astype(np.float32) / 255


@pytest.fixture(scope="module")
def waveform():
    t = np.arange(24000) / 16000
    return (0.1 * np.sin(2 * np.pi * (300 + 900 * t) * t) * np.exp(-t)).astype(np.float32)


def test_windows_are_an_eighth_of_their_side_apart_as_in_the_paper():
    picture = np.arange(256 * 992).reshape(256, 992)
    found = clip_clap.square_windows(picture)
    assert len(found) == 24 and {window.shape for window in found} == {(256, 256)}
    np.testing.assert_array_equal([window[0, 0] for window in found], np.arange(24) * 32)
    tall = clip_clap.square_windows(picture.T)
    np.testing.assert_array_equal(np.stack(tall), np.stack([window.T for window in found]))
    assert len(clip_clap.square_windows(picture[:, :256])) == 1


class Pooled(torch.nn.Module):
    """A CLIP that returns vectors, as in transformers before version 5, which torchmetrics needs."""

    def __init__(self, clip):
        super().__init__()
        self.clip = clip
        self.config = clip.config

    def get_text_features(self, *args):
        return self.clip.get_text_features(*args).pooler_output

    def get_image_features(self, *args):
        return self.clip.get_image_features(*args).pooler_output


def test_clip_scores_equal_those_of_torchmetrics(clip, gray, highest_precision):
    folder, twin = clip
    squares = [
        np.repeat(np.rint(window * 255)[None], 3, axis=0).astype(np.uint8) for window in clip_clap.square_windows(gray)
    ]
    processor = transformers.CLIPProcessor.from_pretrained(folder, backend="pil")
    pictures = [torch.from_numpy(square) for square in squares]
    expected = clip_score(pictures, [PROMPT] * len(squares), model_name_or_path=lambda: (Pooled(twin), processor))
    found = clip_clap.ClipScorer(str(folder)).score(gray, PROMPT)
    assert expected > 1
    np.testing.assert_allclose(found, expected.item(), rtol=1e-4)


def test_clap_scores_equal_those_of_transformers(clap, waveform, highest_precision):
    folder, twin = clap
    at_48k = scipy.signal.resample_poly(waveform, 3, 1)
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    inputs = extractor(at_48k / np.abs(at_48k).max(), sampling_rate=48000, return_tensors="pt")
    tokens = transformers.RobertaTokenizer.from_pretrained(folder)([SOUND], return_tensors="pt")
    with torch.no_grad():
        text = twin.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
        sound = twin.get_audio_features(inputs.input_features).pooler_output
    expected = 100 * max(0.0, torch.cosine_similarity(text, sound).item())
    assert expected > 1
    np.testing.assert_allclose(clip_clap.ClapScorer(str(folder)).score(waveform, 16000, SOUND), expected, rtol=1e-4)


def test_a_long_sound_is_scored_from_its_beginning_to_its_end(clap, waveform):
    scorer = clip_clap.ClapScorer(str(clap[0]))
    long = np.concatenate([waveform] * 3)  # 4.5 s, while the model's input is 2 s
    assert scorer.embed_audio(long, 16000).shape == (3, 12)
    last = scorer.embed_audio(long[-32000:], 16000)
    np.testing.assert_allclose(scorer.embed_audio(long, 16000)[2], last[0], atol=0.02)
    np.testing.assert_allclose(
        scorer.embed_audio(0.01 * waveform, 16000), scorer.embed_audio(waveform, 16000), atol=1e-4
    )


def test_texts_of_any_length_have_embeddings(clap, clip):
    for scorer in (clip_clap.ClapScorer(str(clap[0])), clip_clap.ClipScorer(str(clip[0]))):
        short, long = scorer.embed_text("bell"), scorer.embed_text("a very " * 40 + "long bell")
        assert abs(np.linalg.norm(short) - 1) < 1e-5 and np.abs(short - long).max() > 1e-3


@pytest.mark.parametrize("kind", ["clip", "clap"])
def test_a_conversion_gives_the_same_embeddings_as_its_source(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)[0]
    out = conversion.convert(str(folder), tmp_path / "out")
    check.check(str(folder), out)
    scorer = {"clip": clip_clap.ClipScorer, "clap": clip_clap.ClapScorer}[kind]
    np.testing.assert_array_equal(scorer(str(out)).embed_text("a dog"), scorer(str(folder)).embed_text("a dog"))
    assert (out / "tokenizer" / "vocab.json").exists() and (out / "dual_encoder" / "preprocessor_config.json").exists()
    with pytest.raises(UserError, match="has no unet; the parts of this model are dual_encoder"):
        pretrained.check_components(str(out), ["unet"])


def item(gray, waveform, view="identity", **terms):
    settings = default_settings({"image.prompt": PROMPT, "image.view": view, "audio.prompt": SOUND})
    more = {name: dataclasses.replace(settings.terms["image"], **term) for name, term in terms.items()}
    return Item(dataclasses.replace(settings, terms={**settings.terms, **more}), {}, gray, waveform, 16000)


def test_scorers_are_loaded_by_their_names(clip, clap, gray, waveform):
    scorers = registry.load_scorers(f"clip@{clip[0]}, clap@{clap[0]}")
    found = registry.score_item(scorers, item(gray, waveform))["scores"]
    assert found == {
        "clip": clip_clap.ClipScorer(str(clip[0])).score(gray, PROMPT),
        "clap": clip_clap.ClapScorer(str(clap[0])).score(waveform, 16000, SOUND),
    }


def test_each_term_is_scored_as_its_view_shows_it(clip, gray):
    (scorer,) = registry.load_scorers(f"clip@{clip[0]}")
    upside_down = {"prompt": "a dog", "view": "rotate_180"}
    found = scorer([item(gray, None, second=upside_down)])
    turned = scorer.score(gray[::-1, ::-1], "a dog")
    assert found == {"clip": [scorer.score(gray, PROMPT)], "clip_second": [turned]}
    assert scorer([item(gray, None, view="block_rearrange")])["clip"] != found["clip"]


def test_a_silent_sound_has_no_score(clap, gray, waveform, caplog):
    (scorer,) = registry.load_scorers(f"clap@{clap[0]}")
    silent = item(gray, 0 * waveform)
    with caplog.at_level(logging.WARNING):
        found = scorer([silent, item(gray, waveform)])["clap"]
    assert found[0] is None and found[1] is not None
    assert f"{sample_id(silent.settings)}: no CLAP score, for the sound is silent" in caplog.text


def test_a_model_of_the_other_kind_is_refused(clip, clap):
    with pytest.raises(UserError, match="is a ClapModel; clip scores need a CLIPModel"):
        registry.load_scorers(f"clip@{clap[0]}")
    with pytest.raises(UserError, match="scorers='clop': must be clip, clap or 'package.module:function'"):
        registry.load_scorers("clop")


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["preprocessor_config.json"], "preprocessor_config.json"),
        (["model.safetensors"], "weights, such as model.safetensors"),
        (["vocab.json", "tokenizer.json"], "tokenizer, such as tokenizer.json"),
    ],
)
def test_a_missing_file_is_named_in_the_error(clip, names, missing, tmp_path):
    there = set(sources.file_names(clip[0])) - set(names)
    with pytest.raises(UserError, match=f"my/clip: has no {missing}"):
        sources.layout(there, source="my/clip")


def edited(folder, tmp_path, name, change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    raw = json.loads((copy / name).read_text())
    change(raw)
    (copy / name).write_text(json.dumps(raw))
    return str(copy)


def test_a_processor_of_another_model_is_refused(clip, clap, tmp_path):
    folder = edited(clip[0], tmp_path / "a", "preprocessor_config.json", lambda raw: raw.update(size=32, crop_size=32))
    with pytest.raises(UserError, match="gives pictures of 32 pixels, the model takes pictures of 24 pixels"):
        clip_clap.ClipScorer(folder)
    folder = edited(clap[0], tmp_path / "b", "preprocessor_config.json", lambda raw: raw.update(max_length_s=3))
    with pytest.raises(UserError, match="gives 301 frames of 16 mels, the model takes 256 frames of 16 mels at most"):
        clip_clap.ClapScorer(folder)
    folder = edited(clap[0], tmp_path / "c", "config.json", lambda raw: raw.update(architectures=["BertModel"]))
    with pytest.raises(UserError, match="config is that of a BertModel, only CLIPModel or ClapModel is supported"):
        clip_clap.ClapScorer(folder)
