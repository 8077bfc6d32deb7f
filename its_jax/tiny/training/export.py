"""The trained stages -> model folders, all float16: `image`, `audio` and `color` in diffusers' layout, `clip` and
`clap` in transformers', and the judges."""

import json

import numpy as np
from safetensors.numpy import save_file

from its_jax.models.state_dict import to_state_dict
from its_jax.storage.files import read_json, write_json
from its_jax.tiny import modules, recipe
from its_jax.tiny.training import dual_encoder_folder, pixel_folder


def export(workdir):
    """Writes WORKDIR/export/{image,audio,clip,clap,color,judges}, and training.json with the figures of all stages."""
    latent_std = read_json(workdir / "vae.json")["latent_std"]
    vae = modules.trained(modules.vae(), workdir / "vae")
    for kind in recipe.KINDS:
        models = modules.trained(modules.text_and_unet(kind), workdir / kind)
        export_latent(workdir / "export" / kind, kind, models, vae, latent_std)
    vocoder = modules.trained(modules.vocoder(), workdir / "vocoder")
    _write(workdir / "export" / "audio" / "vocoder", "vocoder", vocoder, recipe.VOCODER)
    for kind in dual_encoder_folder.KINDS:
        export_embedder(workdir, kind)
    export_color(workdir)
    judges = [f"judge_{kind}" for kind in ("picture", "sound")]
    for name in judges:
        judge = modules.trained(modules.judge(), workdir / name)
        _save(workdir / "export" / "judges" / f"{name.removeprefix('judge_')}.safetensors", judge)
    names = ("vae", *recipe.KINDS, "vocoder", *judges, *dual_encoder_folder.KINDS, "color")
    stages = {name: read_json(workdir / f"{name}.json") for name in names}
    write_json(workdir / "export" / "training.json", {"stages": stages})


def export_latent(folder, kind, models, vae, latent_std):
    """Writes a model of latents: `text_encoder` and `unet` of 'image' or 'audio', and the VAE."""
    _write(folder / "unet", "diffusion_pytorch_model", models.unet, recipe.UNET)
    _write(folder / "text_encoder", "model", models.text_encoder, recipe.text_config(kind))
    _write(folder / "vae", "diffusion_pytorch_model", vae, recipe.VAE | {"scaling_factor": 1 / latent_std})
    recipe.write_tokenizer(folder / "tokenizer", recipe.vocabulary(kind))
    (folder / "vocabulary.json").write_text(json.dumps(recipe.vocabulary(kind)))
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", recipe.SCHEDULER)
    write_json(folder / "model_index.json", recipe.MODEL_INDEX)


def export_embedder(workdir, kind):
    """Writes WORKDIR/export/KIND of 'clip' or 'clap'."""
    folder = workdir / "export" / kind
    dual_encoder_folder.write(kind, folder)
    _save(folder / "model.safetensors", modules.trained(modules.embedder(kind), workdir / kind))


def export_color(workdir):
    """Writes WORKDIR/export/color."""
    folder = workdir / "export" / "color"
    models = modules.trained(pixel_folder.text_and_unet(), workdir / "color")
    _write(folder / "unet", "diffusion_pytorch_model", models.unet, pixel_folder.UNET)
    _write(folder / "text_encoder", "model", models.text_encoder, pixel_folder.text_config())
    pixel_folder.write_tokenizer(folder / "tokenizer")
    (folder / "vocabulary.json").write_text(json.dumps(pixel_folder.vocabulary()))
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", pixel_folder.SCHEDULER)
    write_json(folder / "model_index.json", pixel_folder.MODEL_INDEX)


def _write(folder, name, module, fields):
    _save(folder / f"{name}.safetensors", module)
    write_json(folder / "config.json", fields)


def _save(path, module):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.astype(np.float16) for key, value in to_state_dict(module).items()}
    save_file(tensors, path, metadata={"format": "pt"})
