"""What the embedded models are: their `config.json` contents, their tokenizer, and how long each is trained."""

import dataclasses
import math
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from its_jax.audio.mel import MelConfig
from its_jax.storage.files import write_json
from its_jax.tiny.data import pictures, sounds

HEIGHT, WIDTH = 128, 512  # pixels: mel bands and frames of 10 ms
# 80 dB. White is quiet enough for a picture with much of it to be played without clipping; `sounds` is as quiet.
MEL = MelConfig(n_mels=HEIGHT, log_min=math.log(2.5e-4), log_max=math.log(2.5))
NUM_SAMPLES = WIDTH * MEL.hop_length
TEXT_LENGTH = 16  # tokens, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"

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

# So that diffusers opens a folder as a pipeline.
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
    "attention_head_dim": [2, 3, 4],  # the number of heads, see its_jax.models.unet
    "cross_attention_dim": TEXT["hidden_size"],
    "norm_num_groups": 8,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "sample_size": [HEIGHT // 8, WIDTH // 8],
}

# HiFi-GAN with its weight at the rate of frames, where it costs least and learns fastest: two stages that do not
# upsample, and one that goes from frames to samples at once.
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


@dataclasses.dataclass(frozen=True)
class Stage:
    """How a stage is trained: AdamW, its rate from warm-up along a cosine to zero, once or with warm restarts."""

    cycles: Sequence[tuple[int, float]]  # of each: its steps, and its highest learning rate
    batch: int
    ema: float = 0.999
    # (step, steps): up to `step`, the first cycle's rate is that of a cycle of `steps` steps.
    shortened: tuple[int, int] | None = None

    @property
    def steps(self):
        return sum(steps for steps, _ in self.cycles)

    def progress(self, step):
        """The share of its cycle that is behind `step`, in [0, 1)."""
        for steps, _ in self.cycles:
            if step < steps:
                return step / steps
            step -= steps
        raise ValueError("beyond the last step")

    def learning_rate(self):
        """Step -> learning rate."""
        rates = jnp.concatenate([_cosine(steps, peak) for steps, peak in self.cycles])
        if self.shortened:
            (_, peak), (until, planned) = self.cycles[0], self.shortened
            rates = jnp.concatenate([_cosine(planned, peak)[:until], rates[until:]])
        return lambda step: rates[step]


def _cosine(steps, peak):
    """Learning rates `[steps]`: from warm-up along a cosine to zero."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, min(100, steps // 10), steps)(jnp.arange(steps))


# These are the schedules of the shipped weights, whose first cycles were shortened while they ran.
STAGES = {
    "vae": Stage([(1500, 1.5e-3)], batch=8, ema=0.995, shortened=(1195, 2000)),
    "image": Stage([(3400, 8e-4), (5000, 8e-4)], batch=8, shortened=(800, 4200)),
    "audio": Stage([(2400, 8e-4), (1600, 8e-4)], batch=8, shortened=(957, 2900)),
    "vocoder": Stage([(4000, 1.5e-4), (2500, 1e-4)], batch=8, ema=0.998),
    "judge": Stage([(700, 2e-3)], batch=24, ema=0.99),
    "clip": Stage([(1200, 1e-3)], batch=48, ema=0.99),
    "clap": Stage([(700, 1e-3)], batch=36, ema=0.99),
    "color": Stage([(4000, 8e-4)], batch=8),
}


KINDS = ("image", "audio")


def vocabulary(kind):
    """The words (and the comma) that captions of 'image' or 'audio' are made of, sorted."""
    classes, templates = (
        (pictures.SUBJECTS, pictures.TEMPLATES) if kind == "image" else (sounds.SOUNDS, sounds.TEMPLATES)
    )
    phrases = [phrase for phrases in classes.values() for phrase in phrases]
    return sorted(set(re.findall(r"[a-z]+|,", " ".join([*phrases, *templates]))))


def write_tokenizer(folder, words):
    """Writes a CLIP tokenizer whose merges build each of `words` whole; letters of other words stay single tokens.

    Returns the number of tokens; the last two are start and end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges = {}
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            # Merging from the end keeps the pieces of one word unlike those of others.
            merges[parts[-2], parts[-1]] = parts[-2] + parts[-1]
            parts = [*parts[:-2], parts[-2] + parts[-1]]
    tokens = list(dict.fromkeys([*tokens, *merges.values(), START, END]))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TEXT_LENGTH, "bos_token": START}
    config |= {"eos_token": END, "unk_token": END, "pad_token": END}
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    write_json(folder / "tokenizer_config.json", config)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return len(tokens)


def tokenizer(kind):
    """Captions -> int32 `[n, TEXT_LENGTH]`."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), vocabulary(kind))
        clip = CLIPTokenizer.from_pretrained(folder)
    return lambda captions: np.asarray(
        clip(captions, padding="max_length", truncation=True, max_length=TEXT_LENGTH).input_ids, np.int32
    )


def text_config(kind):
    """`text_encoder/config.json` of a kind."""
    with tempfile.TemporaryDirectory() as folder:
        size = write_tokenizer(Path(folder), vocabulary(kind))
    return TEXT | {
        "vocab_size": size,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }
