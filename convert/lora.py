"""LoRA files in diffusers' and kohya's forms, merged into a model's weights.

W' = W + scale alpha / rank (up @ down) (Hu et al. 2021), in float32, then rounded to the dtype of W.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors

from convert import single_file
from convert.tensors import Tensor, open_tensors
from its_jax.errors import UserError

PARTS = ("unet", "text_encoder")
_DTYPES = ("float64", "float32", "float16", "bfloat16")

_FORM = re.compile(
    r"(?P<module>.+?)(?:_lora)?(?:\.lora|\.lora_linear_layer)?\."
    r"(?P<role>(?:lora_)?down\.weight|(?:lora_)?up\.weight|lora_[AB]\.weight|lora_mid\.weight|alpha)"
)
_ROLES = {"lora_A.weight": "down", "lora_B.weight": "up"}  # peft's; the others' say it themselves
_PREFIXES = {"lora_unet_": "unet", "unet_": "unet", "lora_te_": "text_encoder", "text_encoder_": "text_encoder"}
_BARE = re.compile(r"(down_blocks|mid_block|up_blocks)_")  # of files that change the UNet only
_SETTINGS = "lora_adapter_metadata"  # where diffusers keeps peft's settings


@dataclasses.dataclass(frozen=True)
class Lora:
    """A LoRA file and how strongly it is merged; 1 is as it was trained."""

    path: pathlib.Path
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str):
        """`FILE` or `FILE@SCALE`; raises `UserError` if there is no such file, or the scale is no number."""
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


def merged(tensors: Mapping[str, Tensor], part: str, loras: Sequence[Lora]) -> dict[str, Tensor]:
    """The tensors of a part, by today's names, with what the LoRAs add; nothing is computed before it is read.

    Raises:
      UserError: a LoRA is of another kind, or has a tensor that fits none of the part.
    """
    changes: dict[str, list[Any]] = {}
    for lora in loras:
        for key, change in _changes(lora, part, tensors).items():
            changes.setdefault(key, []).append(change)
    return {key: _changed(key, tensor, changes[key]) if key in changes else tensor for key, tensor in tensors.items()}


def check_parts(loras: Sequence[Lora], parts: Collection[str], *, name) -> None:
    """Raises `UserError` if a LoRA changes a part that the model does not have, or is no LoRA of Stable Diffusion."""
    for lora in loras:
        for part, modules in _modules(lora).items():
            if part not in parts:
                raise UserError(f"{lora.path}: tensor {next(iter(modules.values()))[0]!r} is for the {part}, "
                                f"which {name} does not have")  # fmt: skip


def _modules(lora):
    """Part -> module's name with underscores -> (a key of it, role -> Tensor)."""
    found, tensors = {}, open_tensors(lora.path)
    if not tensors:
        raise UserError(f"{lora.path}: holds no tensors")
    for key, tensor in tensors.items():
        if tensor.dtype not in _DTYPES and not key.endswith("alpha"):  # some trainers write it as an integer
            raise UserError(f"{lora.path}: tensor {key!r} is of {tensor.dtype}; a LoRA must be of {', '.join(_DTYPES)}")
        match = _FORM.fullmatch(key)
        part, module = _place(match["module"]) if match else (None, None)
        if part is None:
            raise UserError(
                f"{lora.path}: tensor {key!r} is none of a LoRA for Stable Diffusion 1.x in diffusers' or kohya's form"
            )
        role = _ROLES.get(match["role"]) or match["role"].removeprefix("lora_").removesuffix(".weight")
        roles = found.setdefault(part, {}).setdefault(module, (key, {}))[1]
        if role in roles:
            raise UserError(f"{lora.path}: tensor {key!r} and another are two for one place")
        roles[role] = tensor
    return found


def _place(module):
    """`lora_unet_mid_block_...` or `unet.mid_block....` -> part and `mid_block_...`."""
    flat = module.replace(".processor", "").replace(".", "_")
    for prefix, part in _PREFIXES.items():
        if flat.startswith(prefix):
            return part, flat.removeprefix(prefix)
    return ("unet", flat) if _BARE.match(flat) else (None, None)


def _changes(lora, part, tensors):
    """Key of a tensor -> function of its shape that gives what is added to it."""
    places, changes = _places(part, tensors), {}
    default = _default_alpha(lora, part)
    for module, (key, roles) in _modules(lora).get(part, {}).items():
        if module not in places:
            raise UserError(f"{lora.path}: tensor {key!r} fits no tensor of the {part}")
        if missing := {"up", "down"} - roles.keys():
            raise UserError(f"{lora.path}: tensor {key!r} has no counterpart {min(missing)!r}")
        if places[module] in changes:
            raise UserError(f"{lora.path}: tensor {key!r} and another are two for one place")
        changes[places[module]] = _change(f"{lora.path}: tensor {key!r}", lora.scale, default, roles)
    return changes


def _places(part, names):
    """All names that LoRA files have for a module, with underscores -> the key of its weight."""
    old = single_file.old_names(part, names)
    places = {}
    for key in names:
        for name in (key, old[key]):
            stem = name.removesuffix(".weight").replace(".", "_")
            if part == "text_encoder":
                # diffusers of early 2023 called these layers as the UNet's.
                early = re.sub(r"self_attn_(q|k|v|out)_proj$", r"self_attn_to_\1", stem)
                stems = {stem, early, f"text_model_{stem}", f"text_model_{early}"}
            else:
                stems = {stem, re.sub("to_out_0$", "to_out", stem)}
            if key.endswith(".weight"):
                places.update(dict.fromkeys(stems, key))
    return places


def _default_alpha(lora, part):
    """The alpha of tensors without their own, from peft's settings; None stands for the rank."""
    if lora.path.suffix != ".safetensors":
        return None
    with safetensors.safe_open(lora.path, framework="numpy") as file:
        metadata = file.metadata() or {}
    try:
        settings = json.loads(metadata.get(_SETTINGS, "{}"))
        for name in ("use_dora", "use_rslora", "alpha_pattern"):
            if settings.get(f"{part}.{name}"):
                raise UserError(f"{lora.path}: is trained with {name}, which is not supported")
        alpha = settings.get(f"{part}.lora_alpha")
        return None if alpha is None else float(alpha)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{lora.path}: its {_SETTINGS} cannot be read as JSON ({error})") from error


def _change(name, scale, default, roles):
    def change(shape):
        down, up = (roles[role].read().astype(np.float32) for role in ("down", "up"))
        if min(down.ndim, up.ndim) < 2 or not len(down):
            raise UserError(f"{name} does not fit: {list(up.shape)} and {list(down.shape)} for {list(shape)}")
        rank = len(down)
        alpha = rank if default is None else default
        if "alpha" in roles:
            alpha = roles["alpha"].read()
            if alpha.size != 1:
                raise UserError(f"{name}: its alpha has {alpha.size} numbers, and must be one")
            alpha = float(alpha.reshape(()))
        if "mid" in roles:  # kohya's: three convolutions, of which the middle one has the kernel
            middle = roles["mid"].read().astype(np.float32)
            if middle.ndim != 4 or middle.shape[:2] != (rank, rank):
                raise UserError(f"{name}: its lora_mid is {list(middle.shape)}, which does not fit a rank of {rank}")
            down = np.einsum("nmhw,mi->nihw", middle, down.reshape(rank, -1))
        fits = up.size == shape[0] * rank and down.size == rank * np.prod(shape[1:], dtype=int)
        if len(shape) < 2 or up.shape[0] != shape[0] or not fits:
            raise UserError(f"{name} does not fit: {list(up.shape)} and {list(down.shape)} for {list(shape)}")
        with np.errstate(all="ignore"):
            added = scale * alpha / rank * (up.reshape(shape[0], rank) @ down.reshape(rank, -1)).astype(np.float32)
        if not np.isfinite(added).all():
            raise UserError(f"{name}: what it adds at a scale of {scale:g} is not finite")
        return added.astype(np.float32).reshape(shape)

    return change


def _changed(key, tensor, changes):
    def read():
        value = tensor.read()
        return sum((change(value.shape) for change in changes), value.astype(np.float32)).astype(value.dtype)

    return Tensor(tensor.dtype, read)
