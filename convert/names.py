"""Names of any age -> the names of today's PyTorch modules, which are those of our modules too."""

import re
from collections.abc import Mapping

import numpy as np

from convert.tensors import Tensor
from its_jax.errors import UserError

# diffusers before 0.17 (2023) called the VAE's attention so. Some files hold 1 x 1 convolutions there.
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_LEGACY_ATTENTION = re.compile(r"(?<=attentions)(\.\d+\.)(query|key|value|proj_attn)(?=\.(?:weight|bias)$)")
_ATTENTION_WEIGHT = re.compile(r"attentions\.\d+\.(to_[qkv]|to_out\.0)\.weight$")
# Buffers that follow from the sizes, and a count of training's steps.
CONSTANTS = {"position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked"}
# T5's table of tokens, and what transformers calls it once more.
_TABLE, TABLE_AGAIN = "shared.weight", "encoder.embed_tokens.weight"
# What torch.nn.utils.weight_norm calls weight_g and weight_v, torch.nn.utils.parametrizations calls so.
_PARAMETRIZATION = re.compile(r"parametrizations\.weight\.original([01])$")


def canonical(tensors: Mapping[str, Tensor], *, name="model") -> dict[str, Tensor]:
    """Renames, reshapes and merges tensors lazily: nothing is read here.

    Raises:
      UserError: two tensors come to the same name.
    """
    origin: dict[str, str] = {}
    named: dict[str, Tensor] = {}
    # transformers before 5 called a text encoder so, even alone; with another tower beside it, it still is.
    prefix = "" if any(key.startswith(("vision_model.", "audio_model.")) for key in tensors) else "text_model."
    for key, tensor in tensors.items():
        if key.rpartition(".")[2] in CONSTANTS or (key == TABLE_AGAIN and _TABLE in tensors):
            continue
        today = _today(key.removeprefix(prefix))
        if today in named:
            raise UserError(f"{name}: tensors {origin[today]!r} and {key!r} are two for one place")
        origin[today] = key
        named[today] = _as_matrix(tensor) if _ATTENTION_WEIGHT.search(today) else tensor
    return _without_weight_norm(named)


def _today(key):
    key = _TABLE if key == TABLE_AGAIN else key
    key = _LEGACY_ATTENTION.sub(lambda match: match[1] + _ATTENTION[match[2]], key)
    return _PARAMETRIZATION.sub(lambda match: "weight_" + "gv"[int(match[1])], key)


def _as_matrix(tensor):
    """`[out, in, 1, 1]` -> `[out, in]`; other shapes stay, to be judged by the caller."""

    def read():
        value = tensor.read()
        return value[:, :, 0, 0] if value.ndim == 4 and value.shape[2:] == (1, 1) else value

    return Tensor(tensor.dtype, read)


def _without_weight_norm(named):
    """Each pair `weight_g`, `weight_v` becomes the `weight` that it stands for."""
    merged = dict(named)
    for key in named:
        stem, dot, last = key.rpartition(".")
        gain, direction = f"{stem}{dot}weight_g", f"{stem}{dot}weight_v"
        if last == "weight_v" and gain in named:
            del merged[gain], merged[direction]
            merged[f"{stem}{dot}weight"] = _normed(named[gain], named[direction])
    return merged


def _normed(gain, direction):
    """weight = g v / |v| (Salimans and Kingma 2016), the norm over all axes but the first."""

    def read():
        g, v = gain.read().astype(np.float32), direction.read().astype(np.float32)
        norm = np.sqrt(np.square(v).sum(axis=tuple(range(1, v.ndim)), keepdims=True))
        with np.errstate(divide="ignore", invalid="ignore"):  # zero directions are reported as not finite
            return v * (g / norm)

    return Tensor("float32", read)
