"""Exports the trained models as float16 folders: `image`, `audio` and `color` in the layout of diffusers, `clip` and
`clap` in that of transformers, and the judges."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from its_jax.models.state_dict import to_state_dict
from its_jax.models.vae import AutoencoderKL
from its_jax.storage.files import read_json, write_json
from its_jax.tiny import judges
from its_jax.tiny.recipe import dual_encoder, latent, pixel
from its_jax.tiny.recipe.tokenizers import vocabulary, write_clip_tokenizer, write_t5_tokenizer
from its_jax.tiny.training.loop import load_result

# The models that training.json describes.
_MODELS = ("vae", *latent.KINDS, "vocoder", *(f"judge_{kind}" for kind in judges.KINDS), *dual_encoder.KINDS, "color")


def export(workdir: Path) -> None:
    """Writes WORKDIR/export/{image,audio,clip,clap,color,judges}, and training.json with the figures of all stages."""
    folder = workdir / "export"
    latent_std = read_json(workdir / "vae.json")["latent_std"]
    vae = load_result(latent.random_vae(), workdir / "vae")
    for kind in latent.KINDS:
        models = load_result(latent.random_text_and_unet(kind), workdir / kind)
        export_latent(folder / kind, kind, models, vae, latent_std)
    vocoder = load_result(latent.random_vocoder(), workdir / "vocoder")
    _write_component(folder / "audio" / "vocoder", "vocoder", vocoder, latent.VOCODER)
    export_dual_encoder(folder / "clip", "clip", load_result(dual_encoder.random_clip(), workdir / "clip"))
    export_dual_encoder(folder / "clap", "clap", load_result(dual_encoder.random_clap(), workdir / "clap"))
    export_pixel(folder / "color", load_result(pixel.random_text_and_unet(), workdir / "color"))
    for kind in judges.KINDS:
        judge = load_result(judges.Judge(rngs=nnx.Rngs(0)), workdir / f"judge_{kind}")
        _save(folder / "judges" / f"{kind}.safetensors", judge)
    write_json(folder / "training.json", {"stages": {name: read_json(workdir / f"{name}.json") for name in _MODELS}})


def export_latent(folder: Path, kind: str, models: Any, vae: AutoencoderKL, latent_std: float) -> None:
    """Writes a latent diffusion model: `text_encoder` and `unet` of 'image' or 'audio', and the VAE."""
    _write_component(folder / "unet", "diffusion_pytorch_model", models.unet, latent.UNET)
    _write_component(folder / "text_encoder", "model", models.text_encoder, latent.text_config(kind))
    vae_config = latent.VAE | {"scaling_factor": 1 / latent_std}
    _write_component(folder / "vae", "diffusion_pytorch_model", vae, vae_config)
    write_clip_tokenizer(folder / "tokenizer", vocabulary(kind))
    _write_index(folder, vocabulary(kind), latent.SCHEDULER, latent.MODEL_INDEX)


def export_pixel(folder: Path, models: Any) -> None:
    """Writes the pixel model."""
    _write_component(folder / "unet", "diffusion_pytorch_model", models.unet, pixel.UNET)
    _write_component(folder / "text_encoder", "model", models.text_encoder, pixel.text_config())
    write_t5_tokenizer(folder / "tokenizer", vocabulary("color"))
    _write_index(folder, vocabulary("color"), pixel.SCHEDULER, pixel.MODEL_INDEX)


def export_dual_encoder(folder: Path, kind: str, model: nnx.Module) -> None:
    """Writes 'clip' or 'clap'."""
    dual_encoder.write_folder(kind, folder)
    _save(folder / "model.safetensors", model)


def _write_component(folder: Path, name: str, module: nnx.Module, fields: dict[str, Any]) -> None:
    """Writes the weights and the config of one component of a model."""
    _save(folder / f"{name}.safetensors", module)
    write_json(folder / "config.json", fields)


def _write_index(folder: Path, words: list[str], scheduler: dict[str, Any], model_index: dict[str, Any]) -> None:
    """Writes the files that belong to a model as a whole."""
    (folder / "vocabulary.json").write_text(json.dumps(words))
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "model_index.json", model_index)


def _save(path: Path, module: nnx.Module) -> None:
    """Writes the weights of a module, float16, under PyTorch's names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.astype(np.float16) for key, value in to_state_dict(module).items()}
    save_file(tensors, path, metadata={"format": "pt"})
