"""The two latent diffusion models, `image` and `audio`: architectures in small, and the contents of their config files.

Both share one VAE. The audio model also has a vocoder.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from transformers import CLIPTokenizer

from its_jax.models.clip_text import CLIPTextConfig, CLIPTextModel
from its_jax.models.hifigan import Generator, VocoderConfig
from its_jax.models.layers import Group
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from its_jax.models.vae import AutoencoderKL, VAEConfig
from its_jax.tiny.recipe.canvas import HEIGHT, MEL, WIDTH
from its_jax.tiny.recipe.tokenizers import TEXT_LENGTH, vocabulary, write_clip_tokenizer

KINDS = ("image", "audio")

# The schedule of Stable Diffusion 1.5, so that the tiny models run through the same solver tables as the real ones.
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}

# With this file diffusers opens a folder as a pipeline.
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

VAE = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 128],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": HEIGHT,
    "mid_block_add_attention": False,
}

TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 96,
    "intermediate_size": 384,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": TEXT_LENGTH,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
}

UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [64, 96, 128],
    "layers_per_block": 1,
    "attention_head_dim": [2, 3, 4],  # The number of heads, see its_jax.models.unet.
    "cross_attention_dim": TEXT["hidden_size"],
    "norm_num_groups": 8,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "sample_size": [HEIGHT // 8, WIDTH // 8],
}

# A HiFi-GAN with most of its weights at the rate of frames, where they cost least and learn fastest. Two stages do not
# upsample, and one goes from frames to samples at once.
VOCODER = {
    "resblock": "2",
    "upsample_rates": [1, 1, 160],
    "upsample_kernel_sizes": [3, 3, 320],
    "upsample_initial_channel": 384,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "num_mels": MEL.n_mels,
    "sampling_rate": MEL.sampling_rate,
    "n_fft": MEL.n_fft,
    "hop_size": MEL.hop_length,
    "win_size": MEL.win_length,
    "fmin": MEL.fmin,
    "fmax": MEL.fmax,
    "log_min": MEL.log_min,
    "log_max": MEL.log_max,
}


def random_vae() -> AutoencoderKL:
    """Returns the VAE that both models share, with random weights."""
    return AutoencoderKL(VAEConfig.from_dict(VAE), rngs=nnx.Rngs(0))


def random_text_and_unet(kind: str) -> Group:
    """Returns the `text_encoder` and the `unet` of 'image' or 'audio', which are trained together."""
    return Group(
        text_encoder=CLIPTextModel(CLIPTextConfig.from_dict(text_config(kind)), rngs=nnx.Rngs(2)),
        unet=UNet2DConditionModel(UNetConfig.from_dict(UNET), rngs=nnx.Rngs(1)),
    )


def random_vocoder() -> Generator:
    """Returns the vocoder with random weights."""
    return Generator(VocoderConfig.from_dict(VOCODER), rngs=nnx.Rngs(3))


def text_config(kind: str) -> dict[str, Any]:
    """Returns the contents of `text_encoder/config.json` of 'image' or 'audio'."""
    with tempfile.TemporaryDirectory() as folder:
        size = write_clip_tokenizer(Path(folder), vocabulary(kind))
    return TEXT | {
        "vocab_size": size,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }


def tokenizer(kind: str) -> Callable[[Sequence[str]], np.ndarray]:
    """Returns a function from captions to token ids, int32 `[n, TEXT_LENGTH]`."""
    with tempfile.TemporaryDirectory() as folder:
        write_clip_tokenizer(Path(folder), vocabulary(kind))
        clip = CLIPTokenizer.from_pretrained(folder)
    return lambda captions: np.asarray(
        clip(captions, padding="max_length", truncation=True, max_length=TEXT_LENGTH).input_ids, np.int32
    )
