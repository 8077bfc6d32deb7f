"""Ours against PyTorch on the same work, interleaved in one run, with the same random weights of full size.

    python -m bench.peer --parts=unet,vae,vocoder --dtype=float32 --out=bench/results/peer_cpu_float32.json

PyTorch has its best settings: channels last, scaled dot product attention, and `torch.compile`, where it works, beside
eager mode; ours is held against the faster. A round times each once; the ratio ours / PyTorch's is taken in each round,
and the table gives its median and spread. Peak memory is that of a process for each side that does nothing else.

    unet      one UNet on a pair of negative and positive prompt (`--batch` pairs)
    vae       decoding a latent
    vocoder   a spectrogram to sound

On a GPU, `--dtype=bfloat16 --batch=1,2,4,8`; both sides then share it.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch is there too

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from bench.parity_full_size import about, config, ours_of
from bench.random_weights import randomised
from convert.torch_vocoder import TorchGenerator
from its_jax import stages
from its_jax.models import forms

HEIGHT, WIDTH, TOKENS = 256, 1024, 77
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# How each is called in PyTorch: `eager` and `compiled`.
CALLS = {"eager": lambda f: f, "compiled": functools.partial(torch.compile, dynamic=False)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", default=",".join(WORK), help="several with commas between")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--batch", default="1", help="samples at once, several with commas between")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--forms", default=",".join(CALLS), help="of PyTorch; compiling takes minutes")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--only", choices=("ours", *CALLS), help="prints this side's peak memory, in bytes")
    args = parser.parse_args()
    sizes = [(part, int(b)) for part in args.parts.split(",") for b in args.batch.split(",")]
    if args.only:
        print(peak_memory(*sizes[0], args.dtype, args.only))
        return
    results, forms = {}, args.forms.split(",")
    for part, b in sizes:
        make_ours, make_theirs = WORK[part](b, args.dtype)
        result = contest(make_ours(), make_theirs(), args.rounds, forms)
        result["peak_memory_mb"] = {side: measured_apart(part, b, args.dtype, side) for side in ("ours", *forms)}
        results[f"{part}, batch {b}"] = result
        print(f"{part}, batch {b}: {json.dumps(result)}", flush=True)
        if args.out:  # after each: a long run may be cut off
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({**about(), "dtype": args.dtype, "results": results}, indent=1) + "\n")


def contest(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int, forms: Sequence[str]) -> dict[str, Any]:
    """Seconds of each side, and the ratio of ours to the faster of PyTorch's forms."""
    runners, results = {"ours": ours} | {name: CALLS[name](theirs) for name in forms}, {}
    for name, run in list(runners.items()):
        try:
            result = run()
            if name in ("ours", forms[0]):
                results[name] = as_array(result)
        except Exception as error:  # a form that PyTorch cannot compile is left out, and said
            if name == "ours":
                raise
            print(f"PyTorch, {name}: {error}", file=sys.stderr)
            del runners[name]
    found, expected = results["ours"], results[forms[0]].reshape(results["ours"].shape)
    difference = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    seconds = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(medians.keys() - {"ours"}, key=medians.get)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds[best], strict=True)]
    return {
        "seconds": {name: round(median, 4) for name, median in medians.items()},
        "ratio_to": best,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "relative_difference": float(f"{difference:.2g}"),
    }


def as_array(result):
    """What either side gives, as float32 with channels last."""
    result = result[0] if isinstance(result, tuple) else result
    if not isinstance(result, torch.Tensor):
        return np.asarray(result, np.float32)
    with torch.inference_mode():
        result = result.float().cpu()
        return (result.permute(0, 2, 3, 1) if result.ndim == 4 else result).numpy()


def measured_apart(part, b, dtype, side):
    """Megabytes of a process that makes two runs of one side; None where it fails."""
    command = [sys.executable, "-m", "bench.peer", f"--parts={part}", f"--batch={b}", f"--dtype={dtype}"]
    run = subprocess.run([*command, f"--only={side}"], capture_output=True, text=True)
    return round(int(run.stdout.split()[-1]) / 1e6) if run.returncode == 0 else None


def peak_memory(part, b, dtype, side):
    make_ours, make_theirs = WORK[part](b, dtype)
    run = make_ours() if side == "ours" else CALLS[side](make_theirs())
    run()
    run()
    if DEVICE == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if side == "ours":
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    return torch.cuda.max_memory_allocated()


def module(part, name, dtype):
    """PyTorch's class with random weights."""
    classes = {"unet": diffusers.UNet2DConditionModel.from_config, "vae": diffusers.AutoencoderKL.from_config}
    torch.set_default_dtype(getattr(torch, dtype))  # so that it is never larger than that
    twin = randomised((classes | {"vocoder": TorchGenerator})[part](config(name)))
    torch.set_default_dtype(torch.float32)
    return twin


def ours(part, name, dtype):
    model = ours_of(part, config(name), module(part, name, dtype), jnp.dtype(dtype))
    forms.fit(model, prepare=part == "unet")  # as its_jax.sampler does
    return model


def theirs(part, name, dtype):
    return module(part, name, dtype).to(DEVICE, memory_format=torch.channels_last)


def on_ours(function, *inputs):
    """A call of a jitted function with inputs on the device, which waits for the result."""
    jitted, inputs = jax.jit(function), jax.device_put(inputs)
    return lambda: jax.block_until_ready(jitted(*inputs))


def on_theirs(function, *inputs):
    """A call without gradients with inputs on the device, which waits for the result."""
    inputs = [a.to(DEVICE) for a in inputs]

    @torch.inference_mode()
    def run():
        result = function(*inputs)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def unet(b, dtype):
    x, text, t = normal(2 * b, HEIGHT // 8, WIDTH // 8, 4), normal(2 * b, TOKENS, 768, seed=1), np.full(2 * b, 501)

    def make_ours():
        model = stages.prepare_unet(ours("unet", "sd15.unet", dtype), 1000)
        texts = jax.jit(lambda model, text: model.unet.project_text(text))(model, text)
        return on_ours(lambda model, *inputs: model(*inputs), model, x, t, texts)

    def make_theirs():
        twin = theirs("unet", "sd15.unet", dtype)
        x_, text_ = (torch.from_numpy(a).to(twin.dtype) for a in (x.transpose(0, 3, 1, 2), text))
        x_ = x_.contiguous(memory_format=torch.channels_last)
        return on_theirs(lambda x, t, text: twin(x, t, text, return_dict=False), x_, torch.from_numpy(t), text_)

    return make_ours, make_theirs


def vae(b, dtype):
    z = normal(b, HEIGHT // 8, WIDTH // 8, 4)

    def make_ours():
        return on_ours(lambda model, z: model.decode(z), ours("vae", "sd15.vae", dtype), z)

    def make_theirs():
        twin = theirs("vae", "sd15.vae", dtype)
        z_ = torch.from_numpy(z.transpose(0, 3, 1, 2)).to(twin.dtype).contiguous(memory_format=torch.channels_last)
        return on_theirs(lambda z: twin.decode(z, return_dict=False), z_)

    return make_ours, make_theirs


def vocoder(b, dtype):
    mel = np.random.default_rng(0).uniform(-3, 3, (b, WIDTH, HEIGHT)).astype(np.float32)

    def make_ours():
        return on_ours(lambda model, mel: model(mel), ours("vocoder", "auffusion.vocoder", dtype), mel)

    def make_theirs():
        twin = module("vocoder", "auffusion.vocoder", dtype).to(DEVICE)
        return on_theirs(twin, torch.from_numpy(mel).mT.to(next(twin.parameters()).dtype).contiguous())

    return make_ours, make_theirs


WORK = {"unet": unet, "vae": vae, "vocoder": vocoder}


if __name__ == "__main__":
    main()
