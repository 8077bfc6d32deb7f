"""What the embedded model of pixels is: a first stage of DeepFloyd IF with its T5, in small, in diffusers' layout.

It paints a quarter of the canvas' height and width. A second stage would add nothing here: the details of a picture
are those of its grey, which is kept.
"""

import re
import tempfile
from pathlib import Path

from flax import nnx
from transformers import T5Tokenizer

from its_jax.models.if_unet import PixelUNet, PixelUNetConfig
from its_jax.models.layers import Group
from its_jax.models.t5 import T5Config, T5EncoderModel
from its_jax.tiny import recipe
from its_jax.tiny.data import colors, pictures

REDUCTION = 4
HEIGHT, WIDTH = recipe.HEIGHT // REDUCTION, recipe.WIDTH // REDUCTION
TEXT_LENGTH = 77  # tokens, as IF has it
_TEXT_WIDTH = 64

# That of IF's first stage.
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
}

MODEL_INDEX = {
    "_class_name": "IFPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "watermarker": [None, None],
}

UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 3,
    "out_channels": 6,
    "sample_size": HEIGHT,
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "block_out_channels": [48, 96, 144],
    "layers_per_block": 1,
    "attention_head_dim": 48,
    "cross_attention_dim": 64,
    "encoder_hid_dim": _TEXT_WIDTH,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
    "norm_num_groups": 8,
}

TEXT = {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "d_model": _TEXT_WIDTH,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "is_gated_act": True,
    "dense_act_fn": "gelu_new",
    "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "is_encoder_decoder": False,
    "use_cache": False,
    "tie_word_embeddings": False,
}


def vocabulary() -> list[str]:
    """The words that captions are made of, sorted."""
    phrases = [phrase for names in pictures.SUBJECTS.values() for phrase in names]
    return sorted(set(re.findall(r"[a-z]+", " ".join([*phrases, *colors.TEMPLATES]))))


def write_tokenizer(folder: Path) -> int:
    """Writes a T5 tokenizer that has each word whole, and letters for all others; returns the number of its tokens."""
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters, *(f"▁{word}" for word in vocabulary())]
    # Of ways to cut a text the one with the highest sum counts: a word is cheaper than any of its letters.
    scores = [0.0 if i < 3 else -1.0 if len(piece) > 1 else -3.0 for i, piece in enumerate(pieces)]
    tokenizer = T5Tokenizer(vocab=list(zip(pieces, scores, strict=True)), extra_ids=0, model_max_length=TEXT_LENGTH)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def tokenizer() -> T5Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return T5Tokenizer.from_pretrained(folder)


def text_config() -> dict:
    """`text_encoder/config.json`."""
    return TEXT | {"vocab_size": len(tokenizer())}


def text_and_unet() -> Group:
    """`text_encoder` and `unet` with random weights, which are trained together."""
    return Group(
        text_encoder=T5EncoderModel(T5Config.from_dict(text_config()), rngs=nnx.Rngs(2)),
        unet=PixelUNet(PixelUNetConfig.from_dict(UNET), rngs=nnx.Rngs(1)),
    )
