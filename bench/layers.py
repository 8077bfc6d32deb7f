"""Single layers of full size in three forms: XLA's own, that of `its_jax.models.backends` here, and PyTorch's.

    python -m bench.layers --dtype=float32 --out=bench/results/layers_amx_float32.json

The sizes are those of a canvas of 256 x 1024: a UNet's 3 x 3 convolutions on a pair of prompts, with the kernel
prepared as in a loop, and the vocoder's convolutions over time. GFLOP/s count the plain form's products.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from bench import flags
from bench.about import about
from bench.peer import timed
from its_jax.benchmark.flops import count_flops
from its_jax.models import backends
from its_jax.models.layers import Group, conv3x3
from its_jax.storage.files import write_json

# Rows, columns and channels of a UNet's levels; frames and channels of the vocoder's stages.
PICTURES = (32, 128, 320), (16, 64, 640), (8, 32, 1280)
SOUNDS = (8192, 256), (40960, 128), (81920, 64), (163840, 32), (163840, 16)
KERNEL = 7  # of the vocoder's convolutions over time, which have 3, 7 and 11


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=flags.at_least(1), default=7)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    with flags.told(parser):
        flags.check_out(args.out)
        layers = {}
        for name, work, runners in cases(args.dtype):
            layers[name] = figures(work, timed(runners, args.rounds + 1))
            print(f"{name:40} {layers[name]}", flush=True)
        write_json(args.out, {**about(), "dtype": args.dtype, "rounds": args.rounds, "layers": layers})


def figures(work: int, seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median of all rounds but the first, in which things are compiled."""
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {name: {"ms": round(s * 1e3, 2), "gflops": round(work / s / 1e9, 1)} for name, s in medians.items()}


def cases(dtype: str) -> Iterator[tuple[str, int, dict[str, Callable]]]:
    """Name, floating-point operations and calls of each layer."""
    of = dict(dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    for h, w, c in PICTURES:
        pair = [conv3x3(c, c, **of) for _ in range(2)]
        twin = torch.nn.Conv2d(c, c, 3, padding=1).to(memory_format=torch.channels_last)
        yield f"3 x 3, {c} channels, 2 x {h} x {w}", *runners(*pair, twin, (2, h, w, c), dtype)
    for frames, c in SOUNDS:
        pair = [nnx.Conv(c, c, KERNEL, padding=KERNEL // 2, **of) for _ in range(2)]
        twin = torch.nn.Conv1d(c, c, KERNEL, padding=KERNEL // 2)
        yield f"over time, {c} channels, {frames} frames", *runners(*pair, twin, (1, frames, c), dtype)


def runners(plain, ours, twin, shape, dtype):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    plain, ours = Group(layer=plain), Group(layer=ours)
    backends.specialize(ours, prepare=True)
    run = jax.jit(lambda module, x: module.layer(x))
    on_ours, twin = jnp.asarray(x, dtype), twin.to(getattr(torch, dtype))
    theirs = torch.from_numpy(np.moveaxis(x, -1, 1)).to(getattr(torch, dtype))
    if len(shape) == 4:
        theirs = theirs.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def on_pytorch():
        return twin(theirs)

    return count_flops(run, plain, on_ours), {
        "xla": lambda: run(plain, on_ours).block_until_ready(),
        "ours": lambda: run(ours, on_ours).block_until_ready(),
        "pytorch": on_pytorch,
    }


if __name__ == "__main__":
    main()
