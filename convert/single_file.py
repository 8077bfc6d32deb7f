"""Renames the tensors of single files of Stable Diffusion 1.x, which use the names of its own code (latent-diffusion).

The rules go from current names to old ones: the old names number all blocks consecutively, and the number of a block
follows from what the blocks before it contain.
"""

import re
from collections.abc import Collection, Mapping

from convert.tensors import Tensor
from its_jax.errors import UserError

_PREFIXES = {
    "text_encoder": "cond_stage_model.transformer.",
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
}
# Leftovers of training: averaged copies of the weights, the noise schedule, losses, the rest of CLIP.
_LEFTOVERS = re.compile(
    r"(model_ema|first_stage_model\.(loss|model_ema)|embedding_manager)\..+"
    r"|cond_stage_model\.(transformer\.)?(logit_scale|text_projection(\.weight)?)"
    r"|betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|sqrt_recip(m1)?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])|logvar|lvlb_weights"
)
_OTHER_MODELS = {"conditioner.": "Stable Diffusion XL", "cond_stage_model.model.": "Stable Diffusion 2"}

_UNET_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_VAE = (
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_out\.0", "attn_1.proj_out"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"),
    (r"(down|up)_blocks\.(\d+)\.resnets", r"\1.\2.block"),
    (r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0", r"\1.\2.\3sample"),
)


def find_components(tensors: Collection[str], *, name: str) -> list[str]:
    """Returns the components that a single file contains.

    Args:
      tensors: the names of all tensors in the file.
      name: how error messages call the file.

    Raises:
      UserError: the file is a checkpoint of another kind, or contains a tensor that is not known.
    """
    for prefix, model in _OTHER_MODELS.items():
        if any(key.startswith(prefix) for key in tensors):
            raise UserError(f"{name}: a checkpoint of {model}; only those of Stable Diffusion 1.x are supported")
    used = [key for key in tensors if not _LEFTOVERS.fullmatch(key)]
    components = [component for component, prefix in _PREFIXES.items() if any(key.startswith(prefix) for key in used)]
    if not components:
        raise UserError(
            f"{name}: not a checkpoint of Stable Diffusion 1.x, whose tensors are {', '.join(_PREFIXES.values())}...; "
            "give a single component as a model folder, and a LoRA by --lora"
        )
    for key in used:
        if not key.startswith(tuple(_PREFIXES.values())):
            raise UserError(f"{name}: tensor {key!r} has no place in a model of Stable Diffusion 1.x")
    return components


def component_tensors(tensors: Mapping[str, Tensor], component: str, names: Collection[str]) -> dict[str, Tensor]:
    """Returns the tensors of one component under their current names, `names`; unknown tensors keep their old ones."""
    prefix = _PREFIXES[component]
    current = {old: name for name, old in old_names(component, names).items()}
    found = {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix) and not _LEFTOVERS.fullmatch(key)
    }
    return {current.get(key, key): tensor for key, tensor in found.items()}


def old_names(component: str, names: Collection[str]) -> dict[str, str]:
    """Returns the names in a single file: current name -> old name, without the prefix of the component.

    Args:
      names: all tensors of the component, because the old names number its blocks consecutively.
    """
    rule = {"unet": _unet_names, "vae": _vae_names}.get(component)
    return rule(names) if rule else {name: name for name in names}


def _unet_names(names):
    layers = len({name.split(".")[3] for name in names if name.startswith("down_blocks.0.resnets.")})
    attending = {name.split(".")[1] for name in names if re.match(r"up_blocks\.\d+\.attentions\.", name)}
    return {name: _unet_name(name, layers, attending) for name in names}


def _unet_name(name, layers, attending):
    for current, old in _UNET_ENDS.items():
        if name.startswith(f"{current}."):
            return old + name.removeprefix(current)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{_name_in_block(match[1], match[3])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    if not match:
        return name
    direction, block, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind == "downsamplers":  # in a block of its own after the layers
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":  # at the end of the last layer's block
        place = 2 if match[2] in attending else 1
        return f"output_blocks.{block * (layers + 1) + layers}.{place}.{rest}"
    number = block * (layers + 1) + layer + (direction == "down")  # the first input block is `conv_in`
    blocks = {"down": "input_blocks", "up": "output_blocks"}[direction]
    return f"{blocks}.{number}.{int(kind == 'attentions')}.{_name_in_block(kind, rest)}"


def _name_in_block(kind, rest):
    if kind == "attentions":
        return rest
    layer, dot, leaf = rest.partition(".")
    return _UNET_RESNET.get(layer, layer) + dot + leaf


def _vae_names(names):
    last = max((int(name.split(".")[2]) for name in names if name.startswith("decoder.up_blocks.")), default=0)
    return {name: _vae_name(name, last) for name in names}


def _vae_name(name, last):
    # The old names number the decoder's blocks by resolution, as the encoder's, so their order is reversed.
    name = re.sub(r"(?<=up_blocks\.)\d+", lambda match: str(last - int(match[0])), name)
    for current, old in _VAE:
        name = re.sub(rf"\b{current}(?=\.)", old, name)
    return name
