"""The trained stages -> two model folders in diffusers' layout, float16 safetensors: `image` and `audio`."""

import json
import os
import platform

import jax
import numpy as np
from safetensors.numpy import save_file

from its_jax.media import read_json, write_json
from its_jax.tiny import modules, recipe
from its_jax.weights import to_state_dict


def export(workdir):
    """Writes WORKDIR/export/{image,audio}, and training.json with the figures of all stages."""
    latent_std = read_json(workdir / "vae.json")["latent_std"]
    vae = modules.trained(modules.vae(), workdir / "vae")
    for kind in recipe.KINDS:
        folder = workdir / "export" / kind
        models = modules.trained(modules.text_and_unet(kind), workdir / kind)
        _write(folder / "unet", "diffusion_pytorch_model", models["unet"], recipe.UNET)
        _write(folder / "text_encoder", "model", models["text_encoder"], recipe.text_config(kind))
        _write(
            folder / "vae", "diffusion_pytorch_model", vae, recipe.VAE | {"scaling_factor": 1 / latent_std}
        )
        recipe.write_tokenizer(folder / "tokenizer", recipe.vocabulary(kind))
        (folder / "vocabulary.json").write_text(json.dumps(recipe.vocabulary(kind)))
        (folder / "scheduler").mkdir(exist_ok=True)
        write_json(folder / "scheduler" / "scheduler_config.json", recipe.SCHEDULER)
    vocoder = modules.trained(modules.vocoder(), workdir / "vocoder")
    _write(workdir / "export" / "audio" / "vocoder", "vocoder", vocoder, recipe.VOCODER)
    stages = {name: read_json(workdir / f"{name}.json") for name in ("vae", *recipe.KINDS, "vocoder")}
    machine = f"{os.cpu_count()} CPU cores, {platform.machine()}, jax {jax.__version__}"
    write_json(workdir / "export" / "training.json", {"machine": machine, "stages": stages})


def _write(folder, name, module, fields):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.astype(np.float16) for key, value in to_state_dict(module).items()}
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", fields)
