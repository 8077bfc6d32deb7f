"""The parts of a model folder: which class each is, and how to build it without its weights."""

from flax import nnx

from its_jax.errors import UserError
from its_jax.models.text import CLIPTextConfig, CLIPTextModel
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from its_jax.models.vae import AutoencoderKL, VAEConfig
from its_jax.models.vocoder import Generator, VocoderConfig
from its_jax.weights import abstract

PARTS = {
    "text_encoder": (CLIPTextModel, CLIPTextConfig),
    "unet": (UNet2DConditionModel, UNetConfig),
    "vae": (AutoencoderKL, VAEConfig),
    "vocoder": (Generator, VocoderConfig),
}


def abstract_module(part, raw, dtype, *, name):
    """The module of a part with shapes in place of weights, which have `dtype` as the activations have.

    Args:
      part: a key of `PARTS`. raw: its parsed `config.json`. name: what error messages call it.

    Raises:
      UserError: the config states another class, or a field that the module does not understand.
    """
    module, config = PARTS[part]
    # diffusers states the class in one way, transformers in the other, HiFi-GAN not at all.
    stated = raw.get("_class_name") or (raw.get("architectures") or [None])[0]
    if stated not in (module.__name__, None):
        raise UserError(f"{name}: the config is that of a {stated}, only {module.__name__} is supported")
    try:
        sizes = config.from_dict(raw)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return abstract(module, sizes, dtype=dtype, param_dtype=dtype)


def parameters(module):
    """Name in our checkpoints -> (path, variable) of each parameter of a module, abstract or concrete.

    The name is the path with dots: `('down_blocks', 0, 'kernel')` is `'down_blocks.0.kernel'`.
    """
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    named = [(".".join(map(str, path)), path, leaf) for path, leaf in flat]
    return {name: (path, leaf) for name, path, leaf in sorted(named, key=lambda item: item[0])}
