"""Writes full-size models with random weights, which every command accepts as `model`. Nothing is downloaded.

    python -m bench.peer.random_models --out=FOLDER
    python -m its_jax.benchmark --config=configs/sd15_auffusion.py --batches=1,2,4 \\
        --config.image.model=FOLDER/image --config.audio.model=FOLDER/audio

FOLDER, of 4.3 GB, then contains `image` and `audio` in diffusers' layout, with the configs of Stable Diffusion 1.5 and
of Auffusion. Their VAEs differ, so that a sample takes two decodes. The tokenizer is that of the embedded models. It
knows few words, which does not affect any time.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import safetensors.torch
import torch
import transformers
from absl import flags

from bench.command import ROOT
from bench.published import COMPONENTS, SCHEDULER, read_config
from convert.torch_vocoder import TorchGenerator
from its_jax.runtime import cli
from its_jax.storage.files import explain_os_errors, read_json, write_json
from tests.helpers.random_weights import randomize

TOKENIZER = ROOT / "its_jax" / "tiny" / "weights" / "image" / "tokenizer"


def main():
    out = Path(flags.FLAGS.out)
    with explain_os_errors(out, "create the folder"):
        out.mkdir(parents=True, exist_ok=True)
    write(out)


def write(folder: Path, change: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Writes `image` and `audio` in float16, with one component in memory at a time.

    The config of the audio model's tokenizer comes last, so that its presence shows that the models are complete.

    Args:
      change: component -> fields of its config to replace, for models of another size.
    """
    for seed, (kind, components) in enumerate(COMPONENTS.items()):
        for component, name in components.items():
            raw = {**read_config(name), **(change or {}).get(component, {})}
            write_component(folder / kind / component, component, raw, seed)
            print(f"{folder / kind / component}", flush=True)
        (folder / kind / "scheduler").mkdir(exist_ok=True)
        (folder / kind / "scheduler" / "scheduler_config.json").write_text(json.dumps(read_config(SCHEDULER)))
        write_tokenizer(folder / kind / "tokenizer", read_config("sd15.text_encoder")["max_position_embeddings"])


def write_component(folder, component, raw, seed):
    if component == "vocoder":
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
    torch.set_default_dtype(torch.float16)  # so that it never takes more memory than in that dtype
    module: Any = randomize(make[component](), seed)
    torch.set_default_dtype(torch.float32)
    module.save_pretrained(folder)


def write_tokenizer(folder, length):
    name = "tokenizer_config.json"
    shutil.copytree(TOKENIZER, folder, ignore=shutil.ignore_patterns(name), dirs_exist_ok=True)
    write_json(folder / name, read_json(TOKENIZER / name) | {"model_max_length": length})


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "New folder, or one whose writing was interrupted.", required=True)
    cli.run(main)
