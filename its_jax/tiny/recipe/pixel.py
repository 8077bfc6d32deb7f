"""The pixel model `color`: a first stage of DeepFloyd IF with its T5, in small, and the contents of its config files.

It colors images at a quarter of the canvas' height and width. A second stage would add nothing: the details of an image
are those of its gray, which colorization keeps.
"""

import tempfile
from pathlib import Path
from typing import Any

from flax import nnx
from transformers import T5Tokenizer

from its_jax.models.if_unet import PixelUNet, PixelUNetConfig
from its_jax.models.layers import Group
from its_jax.models.t5 import T5Config, T5EncoderModel
from its_jax.tiny.recipe import canvas
from its_jax.tiny.recipe.tokenizers import vocabulary, write_t5_tokenizer

REDUCTION = 4
HEIGHT, WIDTH = canvas.HEIGHT // REDUCTION, canvas.WIDTH // REDUCTION
_TEXT_WIDTH = 64

# The schedule of IF's first stage.
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


def random_text_and_unet() -> Group:
    """Returns the `text_encoder` and the `unet` with random weights. They are trained together."""
    return Group(
        text_encoder=T5EncoderModel(T5Config.from_dict(text_config()), rngs=nnx.Rngs(2)),
        unet=PixelUNet(PixelUNetConfig.from_dict(UNET), rngs=nnx.Rngs(1)),
    )


def text_config() -> dict[str, Any]:
    """Returns the contents of `text_encoder/config.json`."""
    return TEXT | {"vocab_size": len(tokenizer())}


def tokenizer() -> T5Tokenizer:
    """Returns the model's tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        write_t5_tokenizer(Path(folder), vocabulary("color"))
        return T5Tokenizer.from_pretrained(folder)
