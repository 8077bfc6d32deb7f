"""The parts of models: which class each is, and how to build it without its weights."""

from flax import nnx

from its_jax.errors import UserError
from its_jax.models.clap import ClapConfig, ClapModel
from its_jax.models.clip import CLIPConfig, CLIPModel
from its_jax.models.clip_text import CLIPTextConfig, CLIPTextModel
from its_jax.models.hifigan import Generator, VocoderConfig
from its_jax.models.if_unet import MID_BLOCK, PixelUNet, PixelUNetConfig
from its_jax.models.state_dict import abstract_arrays
from its_jax.models.t5 import T5Config, T5EncoderModel
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from its_jax.models.vae import AutoencoderKL, VAEConfig

# Part -> the classes that it may be of, each with that of its sizes.
COMPONENTS = {
    "text_encoder": [(CLIPTextModel, CLIPTextConfig), (T5EncoderModel, T5Config)],
    "unet": [(UNet2DConditionModel, UNetConfig), (PixelUNet, PixelUNetConfig)],
    "vae": [(AutoencoderKL, VAEConfig)],
    "vocoder": [(Generator, VocoderConfig)],
    "dual_encoder": [(CLIPModel, CLIPConfig), (ClapModel, ClapConfig)],
}
DIFFUSION_COMPONENTS = ("text_encoder", "unet", "vae", "vocoder")  # the parts of a model that makes pictures or sounds


def component_classes(part, raw):
    """The class of a part, and that of its sizes, by its parsed `config.json`.

    Raises:
      UserError: the config states another class.
    """
    known = COMPONENTS[part]
    # diffusers states the class in one way, transformers in the other, HiFi-GAN not at all.
    stated = raw.get("_class_name") or (raw.get("architectures") or [None])[0]
    if raw.get("mid_block_type") == MID_BLOCK:  # diffusers states the class of latents' UNets here too
        stated = PixelUNet.__name__
    for module, config in known:
        if stated == module.__name__ or (stated is None and part in DIFFUSION_COMPONENTS):
            return module, config
    supported = " or ".join(module.__name__ for module, _ in known)
    raise UserError(f"the config is that of a {stated}, only {supported} is supported")


def abstract_module(part, raw, dtype, *, name):
    """The module of a part with shapes in place of weights, which have `dtype` as the activations have.

    Args:
      part: a key of `PARTS`. raw: its parsed `config.json`. name: what error messages call it.

    Raises:
      UserError: the config states another class, or a field that the module does not understand.
    """
    try:
        module, config = component_classes(part, raw)
        sizes = config.from_dict(raw)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return abstract_arrays(module, sizes, dtype=dtype, param_dtype=dtype)


def parameters(module):
    """Name in our checkpoints -> (path, variable) of each parameter of a module, abstract or concrete.

    The name is the path with dots: `('down_blocks', 0, 'kernel')` is `'down_blocks.0.kernel'`.
    """
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    named = [(".".join(map(str, path)), path, leaf) for path, leaf in flat]
    return {name: (path, leaf) for name, path, leaf in sorted(named, key=lambda item: item[0])}
