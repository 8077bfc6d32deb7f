"""What the embedded CLIP and CLAP are: all of their folders but the weights, in the layout of the published ones.

Published are openai/clip-vit-base-patch16 and laion/clap-htsat-unfused; what is small here is the sizes. CLIP looks at
windows as high as the canvas, at half its resolution; CLAP hears 6 s at the models' own sampling rate.
"""

import functools
import math
import tempfile
from pathlib import Path

from safetensors.numpy import load_file
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from its_jax.checkpoints.processors import ClapFeatureExtractor, CLIPImageProcessor
from its_jax.models import state_dict
from its_jax.models.clap import ClapConfig, ClapModel
from its_jax.models.clip import CLIPConfig, CLIPModel
from its_jax.storage.files import read_json, write_json
from its_jax.tiny import recipe

WEIGHTS = Path(__file__).parents[1] / "weights"
CLASSES = {"clip": (CLIPModel, CLIPConfig), "clap": (ClapModel, ClapConfig)}
KINDS = tuple(CLASSES)
SPACE = 64  # numbers of an embedding
FIRST_SCALE = math.log(1 / 0.07)  # of the logits, in the logarithm: Radford et al. 2021, section 2.5

_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "projection_dim": SPACE,
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
    "projection_dim": SPACE,
}

# 256 frames of 64 bands are folded to 128 x 128 pixels, or 32 x 32 tokens; the last of three stages is one window.
_AUDIO = {
    "model_type": "clap_audio_model",
    "depths": [2, 2, 2],
    "hidden_size": 96,
    "num_attention_heads": [2, 4, 8],
    "num_mel_bins": 64,
    "patch_embeds_hidden_size": 24,
    "patch_size": 4,
    "patch_stride": [4, 4],
    "projection_dim": SPACE,
    "spec_size": 128,
    "window_size": 8,
}

_PICTURES = {
    "crop_size": _VISION["image_size"],
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(CLIPImageProcessor.image_mean),
    "image_std": list(CLIPImageProcessor.image_std),
    "resample": 3,  # Pillow's BICUBIC
    "size": _VISION["image_size"],
}

_SECONDS = 6  # a canvas and a little silence
_HOP = 376  # samples: 6 s are the 256 frames
_SOUNDS = {
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
    "nb_max_frames": _SECONDS * recipe.MEL.sampling_rate // _HOP,
    "nb_max_samples": _SECONDS * recipe.MEL.sampling_rate,
    "padding": "repeatpad",
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "ClapProcessor",
    "return_attention_mask": False,
    "sampling_rate": recipe.MEL.sampling_rate,
    "top_db": None,
    "truncation": "rand_trunc",
}


@functools.cache
def config(kind):
    """`config.json` of 'clip' or of 'clap'."""
    with tempfile.TemporaryDirectory() as folder:
        size = _write_tokenizer(kind, Path(folder))
    if kind == "clip":
        text = {"model_type": "clip_text_model", "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
        text |= {"max_position_embeddings": recipe.TEXT_LENGTH}
        text |= {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
        head, tower = {"architectures": ["CLIPModel"], "model_type": "clip"}, {"vision_config": _VISION}
        scale = FIRST_SCALE
    else:
        text = {"model_type": "clap_text_model", "pad_token_id": 1, "type_vocab_size": 1}
        text |= {"max_position_embeddings": recipe.TEXT_LENGTH + 2}  # RoBERTa counts from behind the padding's id
        head, tower = {"architectures": ["ClapModel"], "model_type": "clap"}, {"audio_config": _AUDIO}
        scale = math.exp(FIRST_SCALE)
    towers = {"text_config": _TEXT | text | {"vocab_size": size}} | tower
    return head | towers | {"projection_dim": SPACE, "logit_scale_init_value": scale}


def write(kind, folder):
    """Writes `config.json`, `preprocessor_config.json` and the tokenizer's files."""
    _write_tokenizer(kind, folder)
    write_json(folder / "config.json", config(kind))
    write_json(folder / "preprocessor_config.json", _PICTURES if kind == "clip" else _SOUNDS)


def tokenizer(kind):
    with tempfile.TemporaryDirectory() as folder:
        write(kind, Path(folder))
        return AutoTokenizer.from_pretrained(folder)


def features(kind):
    """What makes a picture, or a sound, ready for the model."""
    return CLIPImageProcessor(_PICTURES["size"]) if kind == "clip" else ClapFeatureExtractor.from_dict(_SOUNDS)


def load(kind, folder=WEIGHTS):
    """The model that comes with the package, or one that another training exported."""
    model, settings = CLASSES[kind]
    outline = state_dict.abstract_arrays(model, settings.from_dict(read_json(folder / kind / "config.json")))
    return state_dict.load_state_dict(outline, load_file(folder / kind / "model.safetensors"), name=kind)


def _write_tokenizer(kind, folder):
    if kind == "clip":
        return recipe.write_tokenizer(folder, recipe.vocabulary("image"))
    return write_roberta_tokenizer(folder, recipe.vocabulary("audio"))


def write_roberta_tokenizer(folder, words):
    """Writes a RoBERTa tokenizer whose merges build each of `words` whole; letters of other words stay single tokens.

    Returns the number of tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters = bytes_to_unicode()
    merges = {}
    for word in words:
        piece = letters[ord(" ")]
        for letter in word:
            # Merging from the space before it keeps the pieces of a word from those inside of others.
            merges[piece, letter] = piece = piece + letter
    # RoBERTa's own places of the special tokens.
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters.values(), *merges.values(), "<mask>"]
    settings = {"tokenizer_class": "RobertaTokenizer", "model_max_length": recipe.TEXT_LENGTH}
    settings |= {"add_prefix_space": True}  # the first word is as any other
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    write_json(folder / "tokenizer_config.json", settings)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return len(tokens)
