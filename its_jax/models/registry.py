"""The components of models: their classes, and how to build one without its weights."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

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

# The classes that a component may have, each with the class of its config.
COMPONENTS: dict[str, list[tuple[type[nnx.Module], Any]]] = {
    "text_encoder": [(CLIPTextModel, CLIPTextConfig), (T5EncoderModel, T5Config)],
    "unet": [(UNet2DConditionModel, UNetConfig), (PixelUNet, PixelUNetConfig)],
    "vae": [(AutoencoderKL, VAEConfig)],
    "vocoder": [(Generator, VocoderConfig)],
    "dual_encoder": [(CLIPModel, CLIPConfig), (ClapModel, ClapConfig)],
}
DIFFUSION_COMPONENTS = ("text_encoder", "unet", "vae", "vocoder")  # in this order


def component_classes(part: str, raw: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns the class of a component and the class of its config.

    Args:
      part: a key of `COMPONENTS`.
      raw: the parsed `config.json` of the component.

    Raises:
      UserError: the config states an unknown class.
    """
    known = COMPONENTS[part]
    # diffusers and transformers state the class under different names, HiFi-GAN does not state it.
    stated = raw.get("_class_name") or (raw.get("architectures") or [None])[0]
    if raw.get("mid_block_type") == MID_BLOCK:  # diffusers states the same class for UNets of latents and of pixels
        stated = PixelUNet.__name__
    for module, config in known:
        if stated == module.__name__ or (stated is None and part in DIFFUSION_COMPONENTS):
            return module, config
    supported = " or ".join(module.__name__ for module, _ in known)
    raise UserError(f"the config is that of a {stated}, only {supported} is supported")


def abstract_module(part: str, raw: Mapping[str, Any], dtype: DTypeLike, *, name: str) -> Any:
    """Returns the module of a component with shapes in place of weights.

    Args:
      part: a key of `COMPONENTS`.
      raw: the parsed `config.json` of the component.
      dtype: dtype of weights and activations.
      name: the name of the component in error messages.

    Raises:
      UserError: the config states an unknown class, or a field that the module does not support.
    """
    try:
        module, config = component_classes(part, raw)
        sizes = config.from_dict(raw)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return abstract_arrays(module, sizes, dtype=dtype, param_dtype=dtype)


def named_parameters(module: nnx.Module) -> dict[str, tuple[tuple[Any, ...], Any]]:
    """Returns path and variable of each parameter of a module, abstract or concrete, by its name in our checkpoints.

    The name is the path with dots: `('down_blocks', 0, 'kernel')` is `'down_blocks.0.kernel'`.
    """
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    named = [(".".join(map(str, path)), path, leaf) for path, leaf in flat]
    return {name: (path, leaf) for name, path, leaf in sorted(named, key=lambda item: item[0])}
