"""A model of latents that knows colours: the embedded `tiny/image`, which has seen grey only, trained on.

    python -m bench.latent_colours --workdir=work/latent_colours
    python -m its_jax.colorize --workdir=work/colours --config.colorize.method=latent \\
        --config.colorize.latent_model=work/latent_colours/export --config.colorize.prompt="a painting of {subject}"

So that colouring by latents can be compared with colouring by pixels on the same pictures (`bench.colours`). It sees
what `tiny/color` sees, drawings in their subjects' usual colours, disturbed as fused samples are: first the VAE, then
text encoder and UNet. It does not come with the package, whose weights are to stay small. Some 25 minutes on 2 cores;
goes on where it was broken off.
"""

import argparse
import logging
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from bench import flags
from its_jax import pretrained
from its_jax.models.layers import Group
from its_jax.tiny import judges, recipe
from its_jax.tiny.data import colors
from its_jax.tiny.data import items as data_items
from its_jax.tiny.data import pictures as data_pictures
from its_jax.tiny.training import color, stages
from its_jax.tiny.training.export import export_latent
from its_jax.tiny.training.loop import fit

ITEMS = 1200
VAE = recipe.Stage([(500, 6e-4)], batch=8, ema=0.99)
UNET = recipe.Stage([(1200, 4e-4)], batch=8, ema=0.995)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, force=True)  # some package has been before
    with flags.told(parser):
        flags.make_folder("--workdir", args.workdir)
        train(args.workdir.absolute())


def train(workdir):
    made_of = _pictures(ITEMS)
    model = pretrained.load_model("tiny/image", components=("text_encoder", "unet", "vae"), dtype=jnp.float32)
    vae = _vae(model.vae, made_of, workdir)
    z = stages.encode(vae, made_of, _signed)
    latent_std = float(np.std(z))
    models = _text_and_unet(model, z / latent_std, workdir)
    export_latent(workdir / "export", "image", models, vae, latent_std)


def _pictures(count):
    """Uint8 `[count, 128, 512, 3]`; item i is of subject i mod 12."""
    others, made = data_items.make_spectrograms("train", count // 2), []
    for i in range(count):
        rng = data_items.generator("color", "train", i)
        grey, tints = colors.draw(
            data_items.SUBJECTS[i % len(data_items.SUBJECTS)], data_items.generator("picture", "train", i)
        )
        if rng.random() < color.DISTURBED:
            grey = judges.disturbed(rng, data_items.to_bytes(grey), others[rng.integers(len(others))])
        made.append(data_items.to_bytes(colors.color_share(grey, tints)))
    return np.stack(made)


def _vae(vae, made_of, workdir):
    graph, params = nnx.split(vae)

    def batches(step):
        rng = data_items.generator("color", "contrast_train", step)
        starts = rng.integers(made_of.shape[2] - stages.VAE_CROP + 1, size=VAE.batch)
        items = zip(rng.integers(len(made_of), size=VAE.batch), starts, strict=True)
        return np.stack([made_of[i, :, start : start + stages.VAE_CROP] for i, start in items])

    def loss(params, crops, key):
        return stages.vae_loss(nnx.merge(graph, params), _signed(crops), key)

    params, _ = fit(loss, params, batches, VAE, workdir / "vae")
    return nnx.merge(graph, params)


def _signed(pictures):
    return jnp.asarray(pictures, jnp.float32) / 127.5 - 1


def _text_and_unet(model, z, workdir):
    graph, params = nnx.split(Group(text_encoder=model.text_encoder, unet=model.unet))
    tokenize, whole = recipe.tokenizer("image"), z.shape[2]

    def batches(step):
        rng = data_items.generator("color", "contrast_held_out", step)
        crop = UNET.progress(step) < stages.UNET_CROP_SHARE
        size, width = (UNET.batch, stages.UNET_CROP) if crop else (UNET.batch // 2, whole)
        chosen, starts = rng.integers(len(z), size=size), rng.integers(whole - width + 1, size=size)
        # Of words that the model knows: it reads 16 tokens, and others are letters to it.
        words = [data_pictures.caption(data_items.SUBJECTS[i % len(data_items.SUBJECTS)], rng) for i in chosen]
        captions = ["" if rng.random() < stages.CAPTION_DROPOUT else caption for caption in words]
        crops = [z[i, :, start : start + width] for i, start in zip(chosen, starts, strict=True)]
        return {"z": np.stack(crops), "tokens": tokenize(captions)}

    def loss(params, batch, key):
        return stages.unet_loss(nnx.merge(graph, params), batch, key)

    params, _ = fit(loss, params, batches, UNET, workdir / "unet")
    return nnx.merge(graph, params)


if __name__ == "__main__":
    main()
