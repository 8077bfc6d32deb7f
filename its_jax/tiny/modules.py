"""The recipe's modules with random weights, to be trained or filled."""

import jax.numpy as jnp
from flax import nnx

from its_jax.models.clip_text import CLIPTextConfig, CLIPTextModel
from its_jax.models.hifigan import Generator, VocoderConfig
from its_jax.models.layers import Group
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from its_jax.models.vae import AutoencoderKL, VAEConfig
from its_jax.tiny import recipe
from its_jax.tiny.judges import Judge
from its_jax.tiny.training import dual_encoder_folder, vocoder_init
from its_jax.tiny.training.loop import load_result


def vae():
    return AutoencoderKL(VAEConfig.from_dict(recipe.VAE), rngs=nnx.Rngs(0))


def text_and_unet(kind):
    """`text_encoder` and `unet` of 'image' or 'audio', which are trained together."""
    return Group(
        text_encoder=CLIPTextModel(CLIPTextConfig.from_dict(recipe.text_config(kind)), rngs=nnx.Rngs(2)),
        unet=UNet2DConditionModel(UNetConfig.from_dict(recipe.UNET), rngs=nnx.Rngs(1)),
    )


def vocoder():
    generator = Generator(VocoderConfig.from_dict(recipe.VOCODER), rngs=nnx.Rngs(3))
    vocoder_init.begin(generator, recipe.MEL)
    return generator


def judge():
    return Judge(rngs=nnx.Rngs(0))


def embedder(kind):
    """CLIP or CLAP."""
    model, settings = dual_encoder_folder.CLASSES[kind]
    model = model(settings.from_dict(dual_encoder_folder.config(kind)), rngs=nnx.Rngs(4))
    scales = [model.logit_scale] if kind == "clip" else [model.logit_scale_a, model.logit_scale_t]
    for scale in scales:
        scale[...] = jnp.asarray(dual_encoder_folder.FIRST_SCALE)
    return model


def trained(module, folder):
    """The module with the weights that a finished stage left in `folder`."""
    graph, params = nnx.split(module)
    return nnx.merge(graph, load_result(folder, params))
