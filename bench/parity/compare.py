"""Compares our modules with PyTorch's at full size: shared weights, relative errors and the report."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bench import command
from convert.names import canonical
from convert.tensors import Tensor
from its_jax.models import registry
from its_jax.models.state_dict import load_state_dict

BOUND = 1e-4


def report(results: Iterable[tuple[str, dict[str, float]]], out: str | None, key: str, **facts: Any) -> None:
    """Prints each result, writes all of them to a file, and exits with status 1 if one is above `BOUND`.

    Args:
      results: names with what `compare` returns. They are computed here, one after another.
      out: the JSON file, if any. key: the name of the results in it. facts: what else it contains.
    """
    save = command.results_writer(out)
    # Otherwise the products of a UNet may be computed in less than float32.
    jax.config.update("jax_default_matmul_precision", "highest")
    start, found = time.perf_counter(), {}
    for name, result in results:
        found[name] = result
        print(f"{name:22} relative error {result['relative_error']:.1e}, std {result['std']:.3f}", flush=True)
    save({"bound": BOUND, **facts, key: found, "seconds": round(time.perf_counter() - start)})
    if missed := [name for name, result in found.items() if not result["relative_error"] <= BOUND]:
        raise SystemExit(f"above {BOUND}: {', '.join(missed)}")


def compare(theirs: Any, ours: Any) -> dict[str, float]:
    """Returns max |ours - theirs| / max |theirs|, and the deviation of theirs, which is neither zero nor infinite."""
    theirs, ours = np.asarray(theirs), np.asarray(ours)
    assert theirs.shape == ours.shape, (theirs.shape, ours.shape)
    return {"relative_error": float(np.abs(ours - theirs).max() / np.abs(theirs).max()), "std": float(theirs.std())}


def to_ours(part: str, raw: Mapping[str, Any], twin: torch.nn.Module, dtype: Any = jnp.float32) -> Any:
    """Returns our module with the weights of PyTorch's `twin`.

    Each weight of the twin is freed once it has been copied, if the caller holds no reference to the twin.

    Args:
      part: name of the component, such as "unet". raw: its config.json.
    """
    tensors = _Draining(twin.state_dict())
    del twin
    return load_state_dict(registry.abstract_module(part, raw, dtype, name=part), tensors)


class _Draining(dict):
    """PyTorch's tensors as arrays, each of which can be read once."""

    def __getitem__(self, key):
        return self.pop(key).float().numpy()


def to_ours_by_file(part: str, raw: Mapping[str, Any], twin: torch.nn.Module) -> Any:
    """Returns our module like `to_ours`, for components whose tensors `convert` renames or leaves out."""
    tensors = canonical({key: Tensor("float32", value.numpy) for key, value in twin.state_dict().items()})
    module = registry.abstract_module(part, raw, jnp.dtype(jnp.float32), name=part)
    return load_state_dict(module, {key: tensor.read() for key, tensor in tensors.items()})


def channels_first(array: np.ndarray) -> torch.Tensor:
    """Converts `[b h w c]` to PyTorch's `[b c h w]`."""
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    """Converts PyTorch's `[b c h w]` to `[b h w c]`."""
    return tensor.permute(0, 2, 3, 1).numpy()
