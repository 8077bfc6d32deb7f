"""Ours against PyTorch on the same work, interleaved in one run, with the same weights.

    python -m bench.peer --parts=unet,vae,vocoder --dtype=float32 --out=bench/results/peer_cpu_parts_float32.json
    python -m bench.peer --parts=embedded --out=bench/results/peer_cpu_embedded.json
    python -m bench.peer --parts=sample,authors --models=FOLDER --dtype=bfloat16 --batch=1,2,4,8

Parts are told in bench/peer_parts.py; `sample` and `authors` need models of full size, as `python -m bench.full_size`
makes them. PyTorch has its best settings: channels last, scaled dot product attention, and these forms: `eager`;
`compiled`, by `torch.compile`; on a GPU also `graphs`, which has CUDA graphs besides, on a CPU `frozen`, whose weights
are packed when it is compiled. A round times each once; a ratio is ours / PyTorch's, seconds a sample in each round, of
which median and range are told. A form that fails is left out, and the reason told. Both must agree, see `AGREEMENT`,
or the comparison is void. `limit_seconds` is what the arithmetic would take at the higher of both sides' rates in a
plain matrix product; Winograd's transforms save some of it. Peak memory is that of a process for ours and for
PyTorch's best that does nothing else; on Linux, what it took to load and compile is left out.
"""

import argparse
import functools
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch is there too

import jax
import numpy as np
import torch

from bench import flags
from bench.about import about
from bench.peer_parts import DEVICE, FULL_SIZE, WORK, Work
from its_jax.errors import UserError
from its_jax.runtime import hardware
from its_jax.storage.files import write_json

# How modules are called in PyTorch.
FORMS = {"eager": lambda f: f, "compiled": functools.partial(torch.compile, dynamic=False)}
if DEVICE == "cuda":
    FORMS["graphs"] = functools.partial(torch.compile, dynamic=False, mode="reduce-overhead")
else:
    FORMS["frozen"] = functools.partial(torch.compile, dynamic=False, options={"freezing": True})
DTYPES = ("float32", "bfloat16", "float16")
# How far apart the sides' results may be: the norm of the difference, of the norm.
AGREEMENT = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}
# Of whole samples in 16 bits: guidance multiplies what rounding does to a step, and the steps after it carry that on.
# Small random models end 0.01 apart after 50 steps in bfloat16; results that share nothing are 1.4 apart.
SAMPLES_AGREEMENT = 0.3
SAMPLES = ("embedded", "sample", "authors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", type=flags.names(WORK), default=["unet", "vae", "vocoder"], help=", ".join(WORK))
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--batch", type=flags.sizes, help="samples at once, several with commas between")
    parser.add_argument("--rounds", type=flags.at_least(1), default=5)
    parser.add_argument(
        "--forms", type=flags.names(FORMS), default=list(FORMS), help="of PyTorch; compiling takes minutes"
    )
    parser.add_argument("--config", type=Path, default=FULL_SIZE, help="of the parts sample and authors")
    parser.add_argument("--models", type=Path, default=Path(), help="their models: MODELS/image and MODELS/audio")
    parser.add_argument("--steps", type=flags.at_least(1), help="in place of the config's")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--skip_memory", action="store_true", help="its processes load and compile all once more")
    parser.add_argument("--only", choices=("ours", *FORMS), help="prints this side's peak memory, in bytes")
    args = parser.parse_args()
    with flags.told(parser):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Raises `UserError`: what is asked for is not there, or the two sides do not agree."""
    check_device()
    flags.check_out(args.out)
    sizes = [(part, b) for part in args.parts for b in args.batch or [WORK[part][1]]]
    if args.only:
        print(peak_memory(*sizes[0], args))
        return
    if DEVICE == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # as JAX has it there
    rates, results = matrix_rates(args.dtype), {}
    for part, b in sizes:
        work = WORK[part][0](b, args)
        forms = [form for form in args.forms if form in (work.forms or args.forms)] or list(work.forms)
        result = contest(work, args.rounds, forms)
        result |= limit(work.flops(), max(rates.values()))
        del work
        torch.compiler.reset()  # lets go of the models, so that there is room for those of the next processes
        gc.collect()
        if not args.skip_memory:
            sides = "ours", result["best_of_pytorch"]
            result["peak_memory_mb"] = {side: measured_apart(part, b, side) for side in sides}
        results[f"{part}, batch {b}"] = result
        print(f"{part}, batch {b}: {json.dumps(result)}", flush=True)
        if args.out:  # after each: a long run may be cut off
            write_json(args.out, record(args, rates, results))
        check_agreement(part, args.dtype, result["relative_difference"])


def check_agreement(part: str, dtype: str, apart: float | None) -> None:
    """Raises `UserError`: the two sides' results are further apart than `dtype` explains, or are not finite."""
    dtype = "float16" if part == "authors" and dtype == "float32" else dtype  # that of their side
    bound = SAMPLES_AGREEMENT if part in SAMPLES and dtype != "float32" else AGREEMENT[dtype]
    if apart is None:
        raise UserError(f"{part}: a result is not finite: the comparison is void")
    if apart > bound:
        raise UserError(f"{part}: the results differ by {apart}, more than {bound}: the comparison is void")


def check_device() -> None:
    """Both sides must be on the same kind of device."""
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform != DEVICE:
        raise UserError(f"JAX is on {platform}, PyTorch on {DEVICE}: install both for one, or set JAX_PLATFORMS=cpu")


def record(args, rates, results):
    settings = {name: getattr(args, name) for name in ("dtype", "rounds", "steps")}
    about_device = {"device": jax.local_devices()[0].device_kind, "torch_threads": torch.get_num_threads()}
    rates = {side: round(rate / 1e9, 1) for side, rate in rates.items()}
    return {**about(), **about_device, **settings, "matrix_product_gflops": rates, "results": results}


def matrix_rates(dtype: str) -> dict[str, float]:
    """Side -> floating-point operations per second in a plain product of square matrices: what there is to be had."""
    n = hardware.PRODUCT[DEVICE == "cpu"]
    a = torch.full((n, n), 1 / n, dtype=getattr(torch, dtype), device=DEVICE)

    def product():
        a @ a
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    product()
    seconds = timed({"pytorch": product}, 5)["pytorch"]
    return {"ours": hardware.matrix_rate(dtype), "pytorch": 2 * n**3 / min(seconds)}


def limit(flops: int, rate: float) -> dict[str, float]:
    """Arithmetic of a sample, and the seconds that it takes at the higher rate of a matrix product."""
    return {"gflop": round(flops / 1e9, 1), "limit_seconds": round(flops / rate, 5)}


def contest(work: Work, rounds: int, forms: Sequence[str]) -> dict[str, Any]:
    """Seconds a sample of each side, ratios of ours to PyTorch's forms, and how far results are apart."""
    runners, firsts, failed = {"ours": work.ours()}, {}, {}
    theirs = work.theirs()
    runners |= {form: theirs(FORMS[form]) for form in forms}
    for name in ("ours", *forms):
        try:
            firsts[name] = as_array(runners[name]())
            runners[name]()  # once more, untimed: what compiles or records may do so at the second call
        except Exception as error:
            if name in ("ours", "eager"):
                raise
            failed[name] = " ".join(str(error).split())[:300]
            print(f"PyTorch, {name}: {failed[name]}", file=sys.stderr)
            del runners[name]
    if len(runners) == 1:
        raise UserError(f"no form of PyTorch works: {failed}")
    samples = dict.fromkeys(runners, work.samples[1]) | {"ours": work.samples[0]}
    seconds = timed(runners, rounds)
    seconds = {name: [value / samples[name] for value in values] for name, values in seconds.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(medians.keys() - {"ours"}, key=medians.get)
    return {
        "seconds_a_sample": {name: round(median, 5) for name, median in medians.items()},
        "ratio": {name: ratio(seconds["ours"], seconds[name]) for name in seconds if name != "ours"},
        "best_of_pytorch": best,
        "failed": failed,
        "relative_difference": furthest(firsts["ours"], [firsts[name] for name in seconds if name != "ours"]),
    }


def furthest(found: np.ndarray, expected: Sequence[np.ndarray]) -> float | None:
    """The largest of the differences; None if a result is not finite."""
    apart = [difference(found, one) for one in expected]
    return max(apart) if all(map(math.isfinite, apart)) else None


def timed(runners: Mapping[str, Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of each runner in each round."""
    seconds = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest over the rounds."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    figures = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return {name: round(value, 3) for name, value in figures.items()}


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference, of PyTorch's norm; where that has fewer samples, over these."""
    found = found.reshape(-1, *expected.shape[1:])[: len(expected)]
    return float(f"{np.linalg.norm(found - expected) / np.linalg.norm(expected):.2g}")


def as_array(result):
    """What either side gives, as float32 with channels last."""
    result = result[0] if isinstance(result, tuple) else result
    if not isinstance(result, torch.Tensor):
        return np.asarray(result, np.float32)
    with torch.inference_mode():
        result = result.float().cpu()
        return (result.permute(0, 2, 3, 1) if result.ndim == 4 else result).numpy()


def measured_apart(part, b, side):
    """Megabytes of a process that makes two runs of one side; where it fails, the reason."""
    command = [sys.executable, "-m", "bench.peer", *sys.argv[1:], f"--parts={part}", f"--batch={b}", f"--only={side}"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        return " ".join([f"exit status {run.returncode}", *run.stderr.strip().splitlines()[-1:]])[:300]
    return round(int(run.stdout.split()[-1]) / 1e6)


def peak_memory(part, b, args):
    work = WORK[part][0](b, args)
    run = work.ours() if args.only == "ours" else work.theirs()(FORMS[args.only])
    run()
    hardware.reset_peak()  # that of loading and compiling
    run()
    run()
    if args.only == "ours" or DEVICE == "cpu":
        return hardware.peak_memory()
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
