"""CLIP and CLAP in small: their architectures, and the contents of their config files in the published layout.

The published models are openai/clip-vit-base-patch16 and laion/clap-htsat-unfused. Only the sizes differ here. CLIP
takes windows as high as the canvas, at half its resolution. CLAP takes 6 s at the sampling rate of the canvas.
"""

import functools
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from transformers import AutoTokenizer

from its_jax.checkpoints.processors import ClapFeatureExtractor, CLIPImageProcessor
from its_jax.models.clap import ClapConfig, ClapModel
from its_jax.models.clip import CLIPConfig, CLIPModel
from its_jax.storage.files import write_json
from its_jax.tiny.recipe.canvas import MEL
from its_jax.tiny.recipe.tokenizers import TEXT_LENGTH, vocabulary, write_clip_tokenizer, write_roberta_tokenizer

KINDS = ("clip", "clap")
EMBEDDING_SIZE = 64
FIRST_SCALE = math.log(1 / 0.07)  # logarithm of the initial scale of the logits: Radford et al. 2021, section 2.5

_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "projection_dim": EMBEDDING_SIZE,
}

_VISION = {
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 96,
    "image_size": 64,
    "intermediate_size": 384,
    "layer_norm_eps": 1e-5,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "patch_size": 8,
    "projection_dim": EMBEDDING_SIZE,
}

# 256 frames of 64 bands are folded to 128 x 128 pixels, or 32 x 32 tokens. The last of the three stages has one window.
_AUDIO = {
    "model_type": "clap_audio_model",
    "depths": [2, 2, 2],
    "hidden_size": 96,
    "num_attention_heads": [2, 4, 8],
    "num_mel_bins": 64,
    "patch_embeds_hidden_size": 24,
    "patch_size": 4,
    "patch_stride": [4, 4],
    "projection_dim": EMBEDDING_SIZE,
    "spec_size": 128,
    "window_size": 8,
}

_IMAGE_PROCESSOR = {
    "crop_size": _VISION["image_size"],
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(CLIPImageProcessor.image_mean),
    "image_std": list(CLIPImageProcessor.image_std),
    "resample": 3,  # Pillow's BICUBIC.
    "size": _VISION["image_size"],
}

_SECONDS = 6  # a canvas and a little silence
_HOP = 376  # samples; 6 s have 256 frames
_FEATURE_EXTRACTOR = {
    "chunk_length_s": _SECONDS,
    "feature_extractor_type": "ClapFeatureExtractor",
    "feature_size": _AUDIO["num_mel_bins"],
    "fft_window_size": 1024,
    "frequency_max": 8000,
    "frequency_min": 50,
    "hop_length": _HOP,
    "max_length_s": _SECONDS,
    "n_fft": 1024,
    "nb_frequency_bins": 513,
    "nb_max_frames": _SECONDS * MEL.sampling_rate // _HOP,
    "nb_max_samples": _SECONDS * MEL.sampling_rate,
    "padding": "repeatpad",
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "ClapProcessor",
    "return_attention_mask": False,
    "sampling_rate": MEL.sampling_rate,
    "top_db": None,
    "truncation": "rand_trunc",
}


@functools.cache
def config(kind: str) -> dict[str, Any]:
    """Returns the contents of `config.json` of 'clip' or 'clap'."""
    with tempfile.TemporaryDirectory() as folder:
        size = _write_tokenizer(kind, Path(folder))
    text: dict[str, Any]
    if kind == "clip":
        text = {"model_type": "clip_text_model", "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
        text |= {"max_position_embeddings": TEXT_LENGTH}
        text |= {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
        head, tower = {"architectures": ["CLIPModel"], "model_type": "clip"}, {"vision_config": _VISION}
        scale = FIRST_SCALE
    else:
        text = {"model_type": "clap_text_model", "pad_token_id": 1, "type_vocab_size": 1}
        text |= {"max_position_embeddings": TEXT_LENGTH + 2}  # RoBERTa counts positions from the padding id on.
        head, tower = {"architectures": ["ClapModel"], "model_type": "clap"}, {"audio_config": _AUDIO}
        scale = math.exp(FIRST_SCALE)
    towers = {"text_config": _TEXT | text | {"vocab_size": size}} | tower
    return head | towers | {"projection_dim": EMBEDDING_SIZE, "logit_scale_init_value": scale}


def random_clip(fields: Mapping[str, Any] | None = None) -> CLIPModel:
    """Returns CLIP with random weights. `fields` are the contents of `config.json`, by default those of `config`."""
    model = CLIPModel(CLIPConfig.from_dict(fields or config("clip")), rngs=nnx.Rngs(4))
    model.logit_scale[...] = jnp.asarray(FIRST_SCALE)
    return model


def random_clap(fields: Mapping[str, Any] | None = None) -> ClapModel:
    """Returns CLAP with random weights. `fields` are the contents of `config.json`, by default those of `config`."""
    model = ClapModel(ClapConfig.from_dict(fields or config("clap")), rngs=nnx.Rngs(4))
    for scale in (model.logit_scale_a, model.logit_scale_t):
        scale[...] = jnp.asarray(FIRST_SCALE)
    return model


def write_folder(kind: str, folder: Path) -> None:
    """Writes everything but the weights: `config.json`, `preprocessor_config.json` and the tokenizer's files."""
    _write_tokenizer(kind, folder)
    write_json(folder / "config.json", config(kind))
    write_json(folder / "preprocessor_config.json", _IMAGE_PROCESSOR if kind == "clip" else _FEATURE_EXTRACTOR)


def _write_tokenizer(kind: str, folder: Path) -> int:
    """Writes the tokenizer's files and returns the number of tokens."""
    if kind == "clip":
        return write_clip_tokenizer(folder, vocabulary("image"))
    return write_roberta_tokenizer(folder, vocabulary("audio"))


def tokenizer(kind: str) -> Any:
    """Returns the tokenizer of 'clip' or 'clap', one of transformers' classes."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(kind, Path(folder))
        return AutoTokenizer.from_pretrained(folder)


def image_processor() -> CLIPImageProcessor:
    """Returns the preprocessing of CLIP's images."""
    return CLIPImageProcessor.from_dict(_IMAGE_PROCESSOR)


def feature_extractor() -> ClapFeatureExtractor:
    """Returns the preprocessing of CLAP's audio."""
    return ClapFeatureExtractor.from_dict(_FEATURE_EXTRACTOR)
