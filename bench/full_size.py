"""Models of full size with random weights, which any command takes as `model`: nothing is downloaded.

    python -m bench.full_size --out=FOLDER
    python -m its_jax.benchmark --config=configs/sd15_auffusion.py --batches=1,2,4 \\
        --config.image.model=FOLDER/image --config.audio.model=FOLDER/audio

FOLDER, of 4.3 GB, then has `image` and `audio` in diffusers' layout, with the configs of Stable Diffusion 1.5 and of
Auffusion. Each has a VAE of its own, so that a sample takes two decodes. The tokenizer is that of the embedded models:
it knows few words, which changes no time.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import safetensors.torch
import torch
import transformers

from bench import flags
from bench.published import PARTS, SCHEDULER, config
from convert.torch_vocoder import TorchGenerator
from its_jax.storage.files import read_json, write_json
from tests.helpers.random_weights import randomize

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT / "its_jax" / "tiny" / "weights" / "image" / "tokenizer"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or one whose writing was broken off")
    out = parser.parse_args().out
    with flags.told(parser):
        flags.make_folder("--out", out)
        write(out)


def write(folder: Path, change: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Writes `image` and `audio` in float16, one part in memory at a time.

    Args:
      change: part -> fields of its config to replace, for models of another size.
    """
    for seed, (kind, parts) in enumerate(PARTS.items()):
        for part, name in parts.items():
            raw = config(name) | (change or {}).get(part, {})
            _write_part(folder / kind / part, part, raw, seed)
            print(f"{folder / kind / part}", flush=True)
        (folder / kind / "scheduler").mkdir(exist_ok=True)
        (folder / kind / "scheduler" / "scheduler_config.json").write_text(json.dumps(config(SCHEDULER)))
        _write_tokenizer(folder / kind / "tokenizer", config("sd15.text_encoder")["max_position_embeddings"])


def _write_part(folder, part, raw, seed):
    if part == "vocoder":
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(raw))
        state = randomize(TorchGenerator(raw), seed).half().state_dict()
        safetensors.torch.save_file(state, folder / "vocoder.safetensors")
        return
    make = {
        "text_encoder": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(raw)),
        "unet": lambda: diffusers.UNet2DConditionModel.from_config(raw),
        "vae": lambda: diffusers.AutoencoderKL.from_config(raw),
    }
    torch.set_default_dtype(torch.float16)  # so that it is never larger than that
    module = randomize(make[part](), seed)
    torch.set_default_dtype(torch.float32)
    module.save_pretrained(folder)


def _write_tokenizer(folder, length):
    """Its config comes last and whole: where the audio model's is there, all is (see bench/gpu.py)."""
    name = "tokenizer_config.json"
    shutil.copytree(TOKENIZER, folder, ignore=shutil.ignore_patterns(name), dirs_exist_ok=True)
    write_json(folder / name, read_json(TOKENIZER / name) | {"model_max_length": length})


if __name__ == "__main__":
    main()
