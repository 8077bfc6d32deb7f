"""What the embedded models are: their `config.json` contents, their tokenizer, and how long each is trained."""

import dataclasses
import json
import math
import re

from its_jax.spectrogram import MelConfig
from its_jax.tiny import pictures, sounds

HEIGHT, WIDTH = 128, 512  # pixels: mel bands and frames of 10 ms
MEL = MelConfig(n_mels=HEIGHT, log_min=math.log(2e-3), log_max=math.log(20.0))  # 80 dB
NUM_SAMPLES = WIDTH * MEL.hop_length
TEXT_LENGTH = 16  # tokens, start and end included

# SD 1.5's schedule, so that the tiny models run through the very solver rows of the real ones.
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
    "block_out_channels": [64, 96, 144],
    "layers_per_block": 1,
    "attention_head_dim": [2, 3, 4],  # the number of heads, see its_jax.models.unet
    "cross_attention_dim": TEXT["hidden_size"],
    "norm_num_groups": 8,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "sample_size": [HEIGHT // 8, WIDTH // 8],
}

VOCODER = {
    "resblock": "1",
    "upsample_rates": [5, 4, 4, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4],
    "upsample_initial_channel": 128,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
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


@dataclasses.dataclass(frozen=True)
class Stage:
    """How a stage is trained: AdamW with warm-up and cosine decay to zero, over `steps` batches."""

    steps: int
    batch: int
    learning_rate: float
    ema: float = 0.999


STAGES = {
    "vae": Stage(steps=2000, batch=8, learning_rate=1.5e-3, ema=0.995),
    "image": Stage(steps=3000, batch=16, learning_rate=1e-3),
    "audio": Stage(steps=3000, batch=16, learning_rate=1e-3),
    "vocoder": Stage(steps=1500, batch=8, learning_rate=1e-3, ema=0.995),
}


def words(captions):
    """The distinct words (and the comma) of captions, sorted."""
    return sorted(set(re.findall(r"[a-z]+|,", " ".join(captions))))


def picture_words():
    phrases = [p for subject in pictures.SUBJECTS.values() for p in subject]
    return words([*phrases, *pictures.TEMPLATES])


def sound_words():
    phrases = [p for sound in sounds.SOUNDS.values() for p in sound]
    return words([*phrases, *sounds.TEMPLATES])


def write_tokenizer(folder, vocabulary):
    """Writes a CLIP tokenizer whose merges build each word of `vocabulary` whole.

    Letters of other words stay single tokens. Returns the number of tokens.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder.mkdir(parents=True, exist_ok=True)
    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in vocabulary:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            # Merging from the end keeps the pieces of one word unlike those of others.
            pair, parts = parts[-2:], [*parts[:-2], "".join(parts[-2:])]
            if tuple(pair) not in merges:
                merges.append(tuple(pair))
                tokens.append("".join(pair))
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    end = "<|endoftext|>"
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": TEXT_LENGTH,
                "bos_token": "<|startoftext|>",
                "eos_token": end,
                "unk_token": end,
                "pad_token": end,
            },
            indent=1,
        )
    )
    return len(tokens)
