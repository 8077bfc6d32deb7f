"""What the benches of parity at full size share: our modules with PyTorch's weights, differences, and the report."""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bench import flags
from bench.about import about
from convert.names import canonical
from convert.tensors import Tensor
from its_jax.models import registry
from its_jax.models.state_dict import load_state_dict
from its_jax.storage.files import write_json

BOUND = 1e-4


def run(what: str, measure: Callable[[], Iterator[tuple[str, dict[str, float]]]], facts: Mapping[str, Any], key: str):
    """Measures, prints, writes the file that --out names, and exits with what is above `BOUND`.

    Args:
      what: the first line of the bench's help. measure: gives names and results, as of `compared`.
      facts: what the file says besides. key: that of the results in it.
    """
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    out = parser.parse_args().out
    with flags.told(parser):
        flags.check_out(out)
    # Else the thousands of products of a UNet may be taken in less than float32.
    jax.config.update("jax_default_matmul_precision", "highest")
    start, results = time.perf_counter(), {}
    for name, result in measure():
        results[name] = result
        print(f"{name:22} relative error {result['relative_error']:.1e}, std {result['std']:.3f}", flush=True)
    if out is not None:
        record = {"what": what, "bound": BOUND} | {**facts, key: results}
        write_json(out, record | {"seconds": round(time.perf_counter() - start)} | about())
    missed = [name for name, result in results.items() if not result["relative_error"] <= BOUND]
    raise SystemExit(f"above {BOUND}: {', '.join(missed)}" if missed else 0)


def ours_of(part: str, raw: Mapping[str, Any], twin: torch.nn.Module, dtype=jnp.float32):
    """Our module with the twin's weights, each of which is freed as it is taken if the caller keeps no twin."""
    tensors = Draining(twin.state_dict())
    del twin
    return load_state_dict(registry.abstract_module(part, raw, dtype, name=part), tensors)


class Draining(dict):
    """PyTorch's tensors as arrays, each of which can be taken once."""

    def __getitem__(self, key):
        return self.pop(key).float().numpy()


def ours_by_file(part: str, raw: Mapping[str, Any], twin: torch.nn.Module):
    """The same for a twin whose tensors `convert` renames, or leaves out, on their way from a file."""
    tensors = canonical({key: Tensor("float32", value.numpy) for key, value in twin.state_dict().items()})
    outline = registry.abstract_module(part, raw, jnp.float32, name=part)
    return load_state_dict(outline, {key: tensor.read() for key, tensor in tensors.items()})


def compared(theirs, ours) -> dict[str, float]:
    """The relative error, and the deviation of PyTorch's result: neither zero nor infinite, if the scale is right."""
    theirs, ours = np.asarray(theirs), np.asarray(ours)
    assert theirs.shape == ours.shape, (theirs.shape, ours.shape)
    return {"relative_error": float(np.abs(ours - theirs).max() / np.abs(theirs).max()), "std": float(theirs.std())}


def channels_first(array):
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def channels_last(tensor):
    return tensor.permute(0, 2, 3, 1).numpy()
