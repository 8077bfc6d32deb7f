"""Times our side and PyTorch's in turns, and checks that their results agree."""

import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bench import command
from bench.peer.parts import DEVICE, Work
from its_jax.errors import UserError
from its_jax.runtime import hardware

# Functions that wrap PyTorch's modules in each form.
FORMS: dict[str, Callable] = {
    "eager": lambda module: module,
    "compiled": functools.partial(torch.compile, dynamic=False),
}
if DEVICE == "cuda":
    FORMS["graphs"] = functools.partial(torch.compile, dynamic=False, mode="reduce-overhead")
else:
    FORMS["frozen"] = functools.partial(torch.compile, dynamic=False, options={"freezing": True})
# The largest norm of the difference between both sides' results, relative to the norm of PyTorch's.
AGREEMENT = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}
# The same for whole samples in 16 bits. Guidance multiplies the rounding errors of a step, and later steps propagate
# them. Small random models end 0.01 apart after 50 steps in bfloat16; unrelated results are 1.4 apart.
SAMPLES_AGREEMENT = 0.3
SAMPLES = ("embedded", "sample", "authors")


def run(work: Work, rounds: int, forms: Sequence[str]) -> dict[str, Any]:
    """Returns seconds per sample of each side, ratios of ours to PyTorch's forms, and how far the results differ."""
    runners, firsts, failed = {"ours": work.ours()}, {}, {}
    theirs = work.theirs()
    runners |= {form: theirs(FORMS[form]) for form in forms}
    for name in ("ours", *forms):
        try:
            firsts[name] = to_array(runners[name]())
            runners[name]()  # not timed either: some forms compile or record at the second call
        except Exception as error:
            if name in ("ours", "eager"):
                raise
            failed[name] = " ".join(str(error).split())[:300]
            print(f"PyTorch, {name}: {failed[name]}", file=sys.stderr)
            del runners[name]
    if len(runners) == 1:
        raise UserError(f"no form of PyTorch works: {failed}")
    samples = dict.fromkeys(runners, work.samples[1]) | {"ours": work.samples[0]}
    seconds = time_rounds(runners, rounds)
    seconds = {name: [value / samples[name] for value in values] for name, values in seconds.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    peers = [name for name in seconds if name != "ours"]
    ratios = {name: [a / b for a, b in zip(seconds["ours"], seconds[name], strict=True)] for name in peers}
    return {
        "seconds_a_sample": {name: round(median, 5) for name, median in medians.items()},
        "ratio": {name: command.spread(ratio) for name, ratio in ratios.items()},
        "best_of_pytorch": min(peers, key=lambda name: medians[name]),
        "failed": failed,
        "relative_difference": largest_difference(firsts["ours"], [firsts[name] for name in peers]),
    }


def time_rounds(runners: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each runner in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            start = time.perf_counter()
            runner()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def to_array(result: Any) -> np.ndarray:
    """Converts the result of either side to float32 with channels last."""
    result = result[0] if isinstance(result, tuple) else result
    if not isinstance(result, torch.Tensor):
        return np.asarray(result, np.float32)
    with torch.inference_mode():
        result = result.float().cpu()
        return (result.permute(0, 2, 3, 1) if result.ndim == 4 else result).numpy()


def largest_difference(found: np.ndarray, expected: Sequence[np.ndarray]) -> float | None:
    """Returns the largest of the relative differences, or None if a result is not finite."""
    differences = [relative_difference(found, one) for one in expected]
    return max(differences) if all(map(math.isfinite, differences)) else None


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the norm of the difference relative to PyTorch's norm, over the samples that PyTorch computed."""
    found = found.reshape(-1, *expected.shape[1:])[: len(expected)]
    return float(f"{np.linalg.norm(found - expected) / np.linalg.norm(expected):.2g}")


def check_agreement(part: str, dtype: str, difference: float | None) -> None:
    """Raises UserError if the results differ more than `dtype` explains, or are not finite."""
    dtype = "float16" if part == "authors" and dtype == "float32" else dtype  # the authors' side is float16
    bound = SAMPLES_AGREEMENT if part in SAMPLES and dtype != "float32" else AGREEMENT[dtype]
    if difference is None:
        raise UserError(f"{part}: a result is not finite: the comparison is void")
    if difference > bound:
        raise UserError(f"{part}: the results differ by {difference}, more than {bound}: the comparison is void")


def matrix_rates(dtype: str) -> dict[str, float]:
    """Returns each side's floating-point operations per second in a plain product of square matrices."""
    n = hardware.PRODUCT[DEVICE == "cpu"]
    a = torch.full((n, n), 1 / n, dtype=getattr(torch, dtype), device=DEVICE)

    def product():
        a @ a
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    product()
    seconds = time_rounds({"pytorch": product}, 5)["pytorch"]
    return {"ours": hardware.matrix_rate(dtype), "pytorch": 2 * n**3 / min(seconds)}


def limit(flops: int, rate: float) -> dict[str, float]:
    """Returns the arithmetic of a sample, and the seconds that it takes at the given rate."""
    return {"gflop": round(flops / 1e9, 1), "limit_seconds": round(flops / rate, 5)}
