"""Merges LoRA files, in the forms of diffusers and kohya, into the weights of a model.

W' = W + scale alpha / rank (up @ down) (Hu et al. 2021), in float32, then rounded to the dtype of W.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import safetensors

from convert import single_file
from convert.tensors import Tensor, open_tensors
from its_jax.errors import UserError

_DTYPES = ("float64", "float32", "float16", "bfloat16")

_FORM = re.compile(
    r"(?P<module>.+?)(?:_lora)?(?:\.lora|\.lora_linear_layer)?\."
    r"(?P<role>(?:lora_)?down\.weight|(?:lora_)?up\.weight|lora_[AB]\.weight|lora_mid\.weight|alpha)"
)
_ROLES = {"lora_A.weight": "down", "lora_B.weight": "up"}  # in peft; the other forms name the role itself
_PREFIXES = {"lora_unet_": "unet", "unet_": "unet", "lora_te_": "text_encoder", "text_encoder_": "text_encoder"}
_BARE = re.compile(r"(down_blocks|mid_block|up_blocks)_")  # in files that change the UNet only
_SETTINGS = "lora_adapter_metadata"  # the key under which diffusers stores the settings of peft

_Change = Callable[[tuple[int, ...]], np.ndarray]  # shape of a tensor -> what is added to it


@dataclasses.dataclass(frozen=True)
class Lora:
    """A LoRA file and the strength at which it is merged; 1 is the strength of training."""

    path: pathlib.Path
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """Parses `FILE` or `FILE@SCALE`; raises `UserError` if the file does not exist or the scale is not a number."""
        file, at, scale = text.rpartition("@")
        if not at or pathlib.Path(text).expanduser().is_file():
            file, scale = text, "1"
        path = pathlib.Path(file).expanduser()
        if not path.is_file():
            raise UserError(f"{file}: no such LoRA file")
        try:
            number = float(scale)
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise UserError(f"{text}: the scale of a LoRA must be a number, as in {path.name}@0.8")
        return cls(path, number)


class _Module(NamedTuple):
    """The tensors that a LoRA file holds for one module: role -> tensor; `key` is the name of the first of them."""

    key: str
    roles: dict[str, Tensor]


def merged(tensors: Mapping[str, Tensor], component: str, loras: Sequence[Lora]) -> dict[str, Tensor]:
    """Merges LoRAs into the tensors of a component, lazily: each sum is computed when the tensor is read.

    Args:
      tensors: current name -> tensor.
      component: `unet`, `text_encoder`, or any other, which LoRAs do not change.

    Raises:
      UserError: a LoRA is of another kind, or has a tensor that does not fit the component.
    """
    changes: dict[str, list[_Change]] = {}
    for lora in loras:
        for key, change in _changes(lora, component, tensors).items():
            changes.setdefault(key, []).append(change)
    return {key: _changed(tensor, changes[key]) if key in changes else tensor for key, tensor in tensors.items()}


def check_components(loras: Sequence[Lora], components: Collection[str], *, name: str) -> None:
    """Raises `UserError` if a LoRA is not for Stable Diffusion 1.x, or changes a component that the model lacks."""
    for lora in loras:
        for component, modules in _modules(lora).items():
            if component not in components:
                key = next(iter(modules.values())).key
                raise UserError(f"{lora.path}: tensor {key!r} is for the {component}, which {name} does not have")


def _modules(lora):
    """Reads the names in a LoRA file: component -> name of a module with underscores -> `_Module`."""
    found: dict[str, dict[str, _Module]] = {}
    tensors = open_tensors(lora.path)
    if not tensors:
        raise UserError(f"{lora.path}: holds no tensors")
    for key, tensor in tensors.items():
        if tensor.dtype not in _DTYPES and not key.endswith("alpha"):  # some trainers write alpha as an integer
            raise UserError(f"{lora.path}: tensor {key!r} is {tensor.dtype}; a LoRA must be {', '.join(_DTYPES)}")
        component, module, role = _parse_key(key)
        if component is None:
            raise UserError(
                f"{lora.path}: tensor {key!r} does not belong to a LoRA for Stable Diffusion 1.x in the form of "
                "diffusers or kohya"
            )
        roles = found.setdefault(component, {}).setdefault(module, _Module(key, {})).roles
        if role in roles:
            raise UserError(f"{lora.path}: tensor {key!r} and another have the same place in the model")
        roles[role] = tensor
    return found


def _parse_key(key):
    """Splits `lora_unet_mid_block_....ROLE` or `unet.mid_block....ROLE` into component, `mid_block_...` and role."""
    match = _FORM.fullmatch(key)
    if match is None:
        return None, None, None
    role = _ROLES.get(match["role"]) or match["role"].removeprefix("lora_").removesuffix(".weight")
    flat = match["module"].replace(".processor", "").replace(".", "_")
    for prefix, component in _PREFIXES.items():
        if flat.startswith(prefix):
            return component, flat.removeprefix(prefix), role
    return ("unet", flat, role) if _BARE.match(flat) else (None, None, None)


def _changes(lora, component, tensors):
    """Returns what a LoRA changes in a component: key of a tensor -> `_Change`."""
    keys, changes = _keys_by_module(component, tensors), {}
    default = _default_alpha(lora, component)
    for module, (key, roles) in _modules(lora).get(component, {}).items():
        if module not in keys:
            raise UserError(f"{lora.path}: tensor {key!r} does not fit any tensor of the {component}")
        if missing := {"up", "down"} - roles.keys():
            raise UserError(f"{lora.path}: tensor {key!r} has no counterpart {min(missing)!r}")
        if keys[module] in changes:
            raise UserError(f"{lora.path}: tensor {key!r} and another have the same place in the model")
        changes[keys[module]] = _change(f"{lora.path}: tensor {key!r}", lora.scale, default, roles)
    return changes


def _keys_by_module(component, names):
    """Returns every name that LoRA files use for a module, with underscores -> the key of its weight."""
    old = single_file.old_names(component, names)
    keys = {}
    for key in names:
        if not key.endswith(".weight"):
            continue
        for name in (key, old[key]):
            stem = name.removesuffix(".weight").replace(".", "_")
            if component == "text_encoder":
                # diffusers of early 2023 names these layers as in the UNet.
                early = re.sub(r"self_attn_(q|k|v|out)_proj$", r"self_attn_to_\1", stem)
                stems = {stem, early, f"text_model_{stem}", f"text_model_{early}"}
            else:
                stems = {stem, re.sub("to_out_0$", "to_out", stem)}
            keys.update(dict.fromkeys(stems, key))
    return keys


def _default_alpha(lora, component):
    """Returns the alpha of modules without their own, from the settings of peft, or None, which means the rank."""
    if lora.path.suffix != ".safetensors":
        return None
    with safetensors.safe_open(lora.path, framework="numpy") as file:
        metadata = file.metadata() or {}
    try:
        settings = json.loads(metadata.get(_SETTINGS, "{}"))
        for name in ("use_dora", "use_rslora", "alpha_pattern"):
            if settings.get(f"{component}.{name}"):
                raise UserError(f"{lora.path}: was trained with {name}, which is not supported")
        alpha = settings.get(f"{component}.lora_alpha")
        return None if alpha is None else float(alpha)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{lora.path}: its {_SETTINGS} cannot be read as JSON ({error})") from error


def _change(name, scale, default_alpha, roles):
    def change(shape):
        down, up = (roles[role].read().astype(np.float32) for role in ("down", "up"))
        misfit = f"{name} does not fit: {list(up.shape)} and {list(down.shape)} for {list(shape)}"
        if min(down.ndim, up.ndim) < 2 or not len(down):
            raise UserError(misfit)
        rank = len(down)
        alpha = _alpha(name, roles, rank if default_alpha is None else default_alpha)
        if "mid" in roles:  # kohya's three convolutions, of which the middle one has the kernel
            down = _join_middle(name, roles["mid"].read().astype(np.float32), down)
        fits = up.size == shape[0] * rank and down.size == rank * np.prod(shape[1:], dtype=int)
        if len(shape) < 2 or up.shape[0] != shape[0] or not fits:
            raise UserError(misfit)
        with np.errstate(all="ignore"):
            added = scale * alpha / rank * (up.reshape(shape[0], rank) @ down.reshape(rank, -1)).astype(np.float32)
        if not np.isfinite(added).all():
            raise UserError(f"{name}: its change at a scale of {scale:g} is not finite")
        return added.astype(np.float32).reshape(shape)

    return change


def _alpha(name, roles, default):
    if "alpha" not in roles:
        return default
    alpha = roles["alpha"].read()
    if alpha.size != 1:
        raise UserError(f"{name}: its alpha has {alpha.size} numbers, and must be one")
    return float(alpha.reshape(()))


def _join_middle(name, middle, down):
    rank = len(down)
    if middle.ndim != 4 or middle.shape[:2] != (rank, rank):
        raise UserError(f"{name}: its lora_mid is {list(middle.shape)}, which does not fit a rank of {rank}")
    return np.einsum("nmhw,mi->nihw", middle, down.reshape(rank, -1))


def _changed(tensor, changes):
    def read():
        value = tensor.read()
        return sum((change(value.shape) for change in changes), value.astype(np.float32)).astype(value.dtype)

    return Tensor(tensor.dtype, read)
