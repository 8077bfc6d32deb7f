"""How time, memory and arithmetic grow with batch, width and number of terms, run by hand:

    python -m bench.scaling --out=bench/results/scaling.json

The embedded models at `configs/default.py`, with few steps and every term at each of them. A point is a process of its
own, which runs `its_jax.benchmark.measure.measure_batch`; along an axis only one setting changes:

    batch      samples at once
    width      of a canvas that is denoised all at once, so that self-attention grows with its square
    windowed   width of a canvas that is denoised in windows of 512 pixels
    terms      models that are fused; those beyond two are the image model with other prompts

An exponent is the slope of a least squares line through the logarithms: 1 is in proportion. Figures of less than
`DIGITS` of their last digit are too coarse for that: they are told, and left out of the line; where fewer than two
remain there is no exponent. A stage grows too fast where the exponent of its seconds or of its program's temporaries
is above that of its arithmetic by more than `TOLERANCE`. It takes 5 minutes on 2 free cores.
"""

import argparse
import json
import runpy
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench import flags
from bench.about import about
from its_jax.errors import UserError
from its_jax.storage.files import write_json

ROOT = Path(__file__).parents[1]
AXES = {
    "batch": (1, 2, 4, 8),
    "width": (256, 512, 1024, 2048),
    "windowed": (512, 1024, 2048),
    "terms": (2, 3, 4),
}
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=flags.at_least(1), default=3, help="batches that are timed at each point")
    parser.add_argument("--axes", type=flags.names(AXES), default=list(AXES), help="several with commas between")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    with flags.told(parser):
        run(args)


def run(args):
    flags.check_out(args.out)
    results, points = {}, {}
    for axis in args.axes:
        along = []
        for value in AXES[axis]:
            settings = json.dumps(settings_at(axis, value))
            if settings not in points:  # where axes cross
                points[settings] = point(settings, args.repeats)
            along.append(points[settings])
            results[axis] = grown(AXES[axis][: len(along)], along)
            if args.out is not None:  # after each: a long run may be cut off
                write_json(args.out, about() | {"steps": STEPS, "axes": results})
        for line in lines(axis, results[axis]):
            print(line, flush=True)


def settings_at(axis: str, value: int) -> dict[str, Any]:
    """The settings of a point: the axes cross at one sample of 512 pixels and two terms."""
    settings = runpy.run_path(str(ROOT / "configs" / "default.py"))["get_config"]().to_dict()
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


def point(settings, repeats):
    """Figures of a batch: of each stage seconds and arithmetic, and temporaries of its program."""
    command = [sys.executable, "-c", POINT, settings, str(repeats)]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)  # stderr goes to the terminal
    if run.returncode:
        raise UserError(f"a point failed with status {run.returncode}: {settings}")
    found = json.loads(run.stdout.splitlines()[-1])
    figures = {
        stage: {
            "seconds": round(statistics.median(of["batch_seconds"]), 4),
            "gflop": round(of["sample_gflop"] * found["batch_size"], 3),
        }
        for stage, of in found["stages"].items()
    }
    for stage, megabytes in found["temporaries_mb"].items():
        figures[stage]["temporaries_mb"] = megabytes
    figures["all"]["peak_memory_mb"] = found["peak_memory_mb"]
    return figures


def grown(values, points):
    """Stage -> each figure along an axis with its exponent, and which of them grow faster than the arithmetic."""
    found = {"values": list(values), "stages": {}}
    for stage, figures in points[0].items():
        along = {name: [of[stage][name] for of in points] for name in figures}
        slopes = {name: exponent(values, of, LAST_DIGIT[name]) for name, of in along.items()}
        known = {name: slope for name, slope in slopes.items() if slope is not None}
        fast = [name for name, slope in known.items() if slope > known.get("gflop", np.inf) + TOLERANCE]
        found["stages"][stage] = {**along, "exponents": slopes, "faster_than_arithmetic": fast}
    return found


def exponent(values, figures, last_digit):
    """The slope through the figures that are not too coarse; None if there is no such line."""
    fine = [(value, figure) for value, figure in zip(values, figures, strict=True) if figure >= DIGITS * last_digit]
    if len(fine) < 2:
        return None
    return round(float(np.polyfit(*np.log(fine).T, 1)[0]), 2)


def lines(axis, found):
    yield f"{axis} {', '.join(map(str, found['values']))}"
    for stage, figures in found["stages"].items():
        for name, slope in figures["exponents"].items():
            row = " ".join(f"{value:10.4g}" for value in figures[name])
            note = "  faster than the arithmetic" if name in figures["faster_than_arithmetic"] else ""
            told = " none" if slope is None else f"{slope:5.2f}"
            yield f"  {stage:8} {name:15} {row}   exponent {told}{note}"


if __name__ == "__main__":
    main()
