"""The recipe's modules with random weights, to be trained or filled."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from its_jax.models.text import CLIPTextConfig, CLIPTextModel
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from its_jax.models.vae import AutoencoderKL, VAEConfig
from its_jax.models.vocoder import Generator, VocoderConfig
from its_jax.tiny import recipe
from its_jax.tiny.fit import load_result
from its_jax.tiny.judges import Judge

LOUDNESS = 0.05  # of an oscillator at amplitude 1 in the features before it


def vae():
    return AutoencoderKL(VAEConfig.from_dict(recipe.VAE), rngs=nnx.Rngs(0))


def text_and_unet(kind):
    """`{"text_encoder", "unet"}` of 'image' or 'audio', which are trained together."""
    return nnx.Dict(
        text_encoder=CLIPTextModel(CLIPTextConfig.from_dict(recipe.text_config(kind)), rngs=nnx.Rngs(2)),
        unet=UNet2DConditionModel(UNetConfig.from_dict(recipe.UNET), rngs=nnx.Rngs(1)),
    )


def vocoder():
    """The generator, its last upsampling a bank of oscillators from the start.

    HiFi-GAN draws no noise and treats all frames alike: to a steady spectrogram it can answer with a waveform only
    that repeats with every frame, a sum of harmonics of the frame rate. From random weights that takes many thousand
    steps to learn. Begun with it, only their amplitudes are to be learned, and what there is beside harmonics.
    """
    generator = Generator(VocoderConfig.from_dict(recipe.VOCODER), rngs=nnx.Rngs(3))
    bank, last = _oscillators(), len(recipe.VOCODER["upsample_rates"]) - 1
    up, post = generator.ups[last].kernel, generator.conv_post.kernel
    # Two channels carry the waveform and its negative, through which it passes the last leaky ReLU undistorted.
    up[...] = up[...].at[:, :2].set(0.0).at[:, 0, : len(bank)].set(bank.T).at[:, 1, : len(bank)].set(-bank.T)
    post[...] = jnp.zeros_like(post[...]).at[3, 0].set(1.0).at[3, 1].set(-1.0)
    blocks = len(recipe.VOCODER["resblock_kernel_sizes"])
    for block in generator.resblocks[last * blocks :]:
        for conv in block.convs:
            conv.kernel[...] = jnp.zeros_like(conv.kernel[...])
    return generator


def _oscillators():
    """Harmonics of the frame rate, fading in and out from frame to frame: float32 `[harmonics, 2 hop_length]`."""
    hop = recipe.MEL.hop_length
    time = np.arange(2 * hop)
    fade = 1 - np.abs(time + 0.5 - hop) / hop
    k = np.arange(1, hop // 2)[:, None]
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, k.shape)  # so that no pulses stand out
    return (LOUDNESS * fade * np.cos(2 * np.pi * k * time / hop + phases)).astype(np.float32)


def judge():
    return Judge(rngs=nnx.Rngs(0))


def trained(module, folder):
    """The module with the weights that a finished stage left in `folder`."""
    graph, params = nnx.split(module)
    return nnx.merge(graph, load_result(folder, params))
