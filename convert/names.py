"""Renames tensors of any age to the names of current PyTorch modules, which are also the names of our modules."""

import re
from collections.abc import Mapping

import numpy as np

from convert.tensors import Tensor
from its_jax.errors import UserError

# Buffers that follow from the sizes, and a count of training steps.
CONSTANTS = {"position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked"}
# T5's token embedding, and its second name in transformers.
_TOKEN_EMBEDDING, TIED_EMBEDDING = "shared.weight", "encoder.embed_tokens.weight"

# The VAE's attention has these names in diffusers before 0.17 (2023). Some files hold 1 x 1 convolutions there.
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_LEGACY_ATTENTION = re.compile(r"(?<=attentions)(\.\d+\.)(query|key|value|proj_attn)(?=\.(?:weight|bias)$)")
_ATTENTION_WEIGHT = re.compile(r"attentions\.\d+\.(to_[qkv]|to_out\.0)\.weight$")
# torch.nn.utils.parametrizations has other names for the weight_g and weight_v of torch.nn.utils.weight_norm.
_PARAMETRIZATION = re.compile(r"parametrizations\.weight\.original([01])$")


def canonical(tensors: Mapping[str, Tensor], *, name: str = "model") -> dict[str, Tensor]:
    """Renames, reshapes and merges the tensors of a component, lazily: no tensor is read.

    Args:
      tensors: name in the file -> tensor.
      name: how error messages call the component.

    Raises:
      UserError: two tensors get the same name.
    """
    origin: dict[str, str] = {}
    renamed: dict[str, Tensor] = {}
    # transformers before 5 uses this prefix even for a text encoder alone; beside another tower it is still used.
    prefix = "" if any(key.startswith(("vision_model.", "audio_model.")) for key in tensors) else "text_model."
    for key, tensor in tensors.items():
        if key.rpartition(".")[2] in CONSTANTS or (key == TIED_EMBEDDING and _TOKEN_EMBEDDING in tensors):
            continue
        current = _current_name(key.removeprefix(prefix))
        if current in renamed:
            raise UserError(f"{name}: tensors {origin[current]!r} and {key!r} have the same place in the model")
        origin[current] = key
        renamed[current] = _as_matrix(tensor) if _ATTENTION_WEIGHT.search(current) else tensor
    return _without_weight_norm(renamed)


def _current_name(key):
    key = _TOKEN_EMBEDDING if key == TIED_EMBEDDING else key
    key = _LEGACY_ATTENTION.sub(lambda match: match[1] + _ATTENTION[match[2]], key)
    return _PARAMETRIZATION.sub(lambda match: "weight_" + "gv"[int(match[1])], key)


def _as_matrix(tensor):
    """Reshapes `[out, in, 1, 1]` to `[out, in]`; other shapes are left for the caller to check."""

    def read():
        value = tensor.read()
        return value[:, :, 0, 0] if value.ndim == 4 and value.shape[2:] == (1, 1) else value

    return Tensor(tensor.dtype, read)


def _without_weight_norm(tensors):
    """Replaces each pair `weight_g`, `weight_v` by the `weight` that it stands for."""
    merged = dict(tensors)
    for key in tensors:
        stem, dot, last = key.rpartition(".")
        gain, direction = f"{stem}{dot}weight_g", f"{stem}{dot}weight_v"
        if last == "weight_v" and gain in tensors:
            del merged[gain], merged[direction]
            merged[f"{stem}{dot}weight"] = _normalized(tensors[gain], tensors[direction])
    return merged


def _normalized(gain, direction):
    """Computes weight = g v / |v| (Salimans and Kingma 2016), the norm over all axes but the first."""

    def read():
        g, v = gain.read().astype(np.float32), direction.read().astype(np.float32)
        norm = np.sqrt(np.square(v).sum(axis=tuple(range(1, v.ndim)), keepdims=True))
        with np.errstate(divide="ignore", invalid="ignore"):  # zero directions are reported as not finite
            return v * (g / norm)

    return Tensor("float32", read)
