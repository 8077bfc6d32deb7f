"""Measures how time, memory and arithmetic grow with batch size, width and number of terms.

    python -m bench.device.scaling --out=bench/results/scaling.json

The settings are those of `configs/default.py` with the embedded models, few steps and every term at each of them. Each
point is a process of its own, which runs `its_jax.benchmark.measure.measure_batch`. Along an axis only one setting
changes:

    batch      batch size
    width      width of a canvas that is denoised at once, so that self-attention grows with its square
    windowed   width of a canvas that is denoised in windows of 512 pixels
    terms      number of models that are fused; those beyond two are the image model with other prompts

An exponent is the slope of a least squares line through the logarithms: 1 means proportional growth. Figures of less
than `DIGITS` of their last digit are too coarse for that. They are reported but left out of the line; with fewer than
two others there is no exponent. A stage grows too fast if the exponent of its seconds or of its program's temporaries
exceeds that of its arithmetic by more than `TOLERANCE`. The command takes 5 minutes on 2 free cores.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from bench import command
from configs import default
from its_jax.errors import UserError, check_choice
from its_jax.runtime import cli

AXES = {"batch": (1, 2, 4, 8), "width": (256, 512, 1024, 2048), "windowed": (512, 1024, 2048), "terms": (2, 3, 4)}
STEPS = 5
TOLERANCE = 0.1
LAST_DIGIT = {"seconds": 1e-4, "gflop": 1e-3, "temporaries_mb": 1e-3, "peak_memory_mb": 1}
DIGITS = 20  # so that rounding changes a figure by 2.5 % at most
PROMPTS = ("a drawing of a fish", "a drawing of a tree")
POINT = """
import json, sys
import jax
from its_jax.benchmark import measure
jax.config.update("jax_enable_compilation_cache", False)
print(json.dumps(measure.measure_batch(json.loads(sys.argv[1]), int(sys.argv[2]))))
"""


def main():
    args = flags.FLAGS
    for axis in args.axes:
        check_choice("--axes", axis, AXES)
    save = command.results_writer(args.out)
    results: dict[str, Any] = {}
    points: dict[str, dict[str, Any]] = {}
    for axis in args.axes:
        along = []
        for value in AXES[axis]:
            settings = json.dumps(settings_at(axis, value))
            if settings not in points:  # axes cross at a common point
                points[settings] = measure_point(settings, args.repeats)
            along.append(points[settings])
            results[axis] = compare_growth(AXES[axis][: len(along)], along)
            save({"steps": STEPS, "axes": results})
        print(f"{axis}: {json.dumps(results[axis])}", flush=True)


def settings_at(axis: str, value: int) -> dict[str, Any]:
    """Returns the settings of a point. The axes cross at one sample of 512 pixels and two terms."""
    settings = default.get_config().to_dict()
    settings |= {"num_steps": STEPS, "batch_size": 1, "width": 512, "window": 0}
    for term in ("image", "audio"):
        settings[term] |= {"start_step": 0, "stop_step": -1}
    if axis == "batch":
        settings["batch_size"] = value
    elif axis == "terms":
        more = zip("abcdefgh", PROMPTS[: value - 2], strict=False)
        settings |= {f"image_{name}": settings["image"] | {"prompt": prompt} for name, prompt in more}
    else:
        settings["width"] = value
        settings["window"] = 512 if axis == "windowed" and value > 512 else 0
    return settings


def measure_point(settings: str, repeats: int) -> dict[str, Any]:
    """Returns seconds, arithmetic and temporaries of each stage for one batch."""
    arguments = [sys.executable, "-c", POINT, settings, str(repeats)]
    run = subprocess.run(arguments, cwd=command.ROOT, stdout=subprocess.PIPE)  # stderr goes to the terminal
    if run.returncode:
        raise UserError(f"a point failed with status {run.returncode}: {settings}")
    found = json.loads(run.stdout.splitlines()[-1])
    figures: dict[str, dict[str, float]] = {
        stage: {
            "seconds": round(statistics.median(measured["batch_seconds"]), 4),
            "gflop": round(measured["sample_gflop"] * found["batch_size"], 3),
        }
        for stage, measured in found["stages"].items()
    }
    for stage, megabytes in found["temporaries_mb"].items():
        figures[stage]["temporaries_mb"] = megabytes
    figures["all"]["peak_memory_mb"] = found["peak_memory_mb"]
    return figures


def compare_growth(values: Sequence[int], points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns each stage's figures along an axis with their exponents, and which grow faster than the arithmetic."""
    stages = {}
    for stage, figures in points[0].items():
        along = {name: [point[stage][name] for point in points] for name in figures}
        slopes = {name: exponent(values, found, LAST_DIGIT[name]) for name, found in along.items()}
        known = {name: slope for name, slope in slopes.items() if slope is not None}
        fast = [name for name, slope in known.items() if slope > known.get("gflop", np.inf) + TOLERANCE]
        stages[stage] = {**along, "exponents": slopes, "faster_than_arithmetic": fast}
    return {"values": list(values), "stages": stages}


def exponent(values: Sequence[int], figures: Sequence[float], last_digit: float) -> float | None:
    """Returns the slope through the figures that are not too coarse, or None if there are fewer than two."""
    fine = [(value, figure) for value, figure in zip(values, figures, strict=True) if figure >= DIGITS * last_digit]
    if len(fine) < 2:
        return None
    x, y = np.log(np.array(fine, float)).T
    return round(float(np.polyfit(x, y, 1)[0]), 2)


if __name__ == "__main__":
    flags.DEFINE_integer("repeats", 3, "Batches that are timed at each point.", lower_bound=1)
    flags.DEFINE_list("axes", list(AXES), "Axes to measure.")
    flags.DEFINE_string("out", None, "JSON file for the results.")
    cli.run(main)
