"""Compiles full-size programs for TPU chips on a machine without any, and reports memory, padding and arithmetic.

    python -m bench.device.tpu_compile --chips=v5e-1 --batch=0
    python -m bench.device.tpu_compile --chips=v5e-4 --batch=1 --devices_per_sample=4
    python -m bench.device.tpu_compile --chips=v5e-1 --pixel

The command needs `pip install -e ".[tpu]"`, and on 2 cores minutes for each size, or most of an hour with `--effort=0`.
Weights are shapes alone, and nothing is timed. Sizes are bytes on one chip, as the compiler lays arrays out: in tiles,
to which the last two axes are padded. `--batch=0` uses the batch size that `batch_size=0` chooses. `--pixel` compiles
DeepFloyd IF's modules instead, with the widths that are known (see bench/parity/pixel.py).

The exit status is 1 if a program does not fit in memory, has a collective (with `--devices_per_sample` one other than
an all-reduce), or if its arithmetic, without the overlaps that bench/device/hlo.py explains, differs from the count by
more than `MAX_DEVIATION`.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
from absl import flags
from flax import nnx

from bench import command
from bench.device import hlo, programs
from bench.device.programs import SLICES, TOKENS, AbstractProgram
from bench.published import COMPONENTS, read_config
from configs import sd15_auffusion
from its_jax.benchmark.flops import count_flops
from its_jax.errors import UserError, check_choice
from its_jax.models import backends, registry
from its_jax.models.layers import attend
from its_jax.runtime import cli
from its_jax.settings.parse import read_settings
from its_jax.settings.schema import SampleSettings
from its_jax.storage.files import read_json

MAX_DEVIATION = 0.03


def main():
    args = flags.FLAGS
    for chips in args.chips:
        check_choice("--chips", chips, SLICES)
        programs.describe_chips(chips)  # if this fails, the batch size is not the reason
    batches = command.read_integers("--batch", args.batch, least=0)
    jax.config.update("jax_exec_time_optimization_effort", args.effort)
    save = command.results_writer(args.out)
    (settings, *_), _ = read_settings(sd15_auffusion.get_config().to_dict())
    results = read_json(args.out)["programs"] if args.out and Path(args.out).exists() else {}
    missed = False
    for chips, b in [(chips, 0) for chips in args.chips] if args.pixel else itertools.product(args.chips, batches):
        start = time.perf_counter()
        if args.pixel:
            name, found = f"{chips}, pixel", measure_pixel(chips)
        else:
            name = f"{chips}, {b or 'batch_size=0'} on a chip"
            name += f", {args.devices_per_sample} chips a sample" if args.devices_per_sample > 1 else ""
            found = measure(settings, chips, b, args.devices_per_sample)
        seconds = round(time.perf_counter() - start)
        results[name] = found | {"compile_seconds": seconds, "effort": args.effort} | command.environment()
        print(f"{name}: {json.dumps(results[name])}", flush=True)
        save({"settings": settings.to_dict(), "programs": results})
        for fault in find_faults(found):
            print(f"missed: {name}: {fault}", file=sys.stderr)
            missed = True
    if missed:
        raise SystemExit(1)


def find_faults(found: Mapping[str, Any]) -> list[str]:
    """Returns a description of each requirement that a result misses."""
    if "refused" in found:
        return [found["refused"]]
    faults = []
    if not found["fits"]:
        faults.append(f"{found['total'] / 1e9:.2f} GB do not fit, {found['of_hbm']:.0%} of the memory")
    allowed = {"all-reduce"} if found.get("devices_per_sample", 1) > 1 else set()
    exchanges = {name: program.get("collectives", []) for name, program in found["programs"].items()}
    if exchanges := {name: names for name, names in exchanges.items() if set(names) - allowed}:
        faults.append(f"exchanges data between chips: {exchanges}")
    work = found["programs"].get("denoise", {}).get("of_a_step")
    if work and abs(work["compiled_to_counted"] - 1) > MAX_DEVIATION:
        faults.append(f"the compiler counts {work['compiled_to_counted']} of the arithmetic in products")
    return faults


def measure(settings: SampleSettings, chips: str, b: int, devices_per_sample: int) -> dict[str, Any]:
    """Returns the figures of all stages, or why the compiler refused them."""
    try:
        return describe(AbstractProgram(settings, chips, b, devices_per_sample), settings)
    except UserError as error:
        return {"refused": f"{error}", "compiler": " ".join(str(error.__cause__).split())[:300]}


def describe(program: AbstractProgram, settings: SampleSettings) -> dict[str, Any]:
    """Returns the memory that the stages need, and the figures of each."""
    compiled, devices_per_sample = program.compiled(), program.components.placement.devices_per_sample
    results = {name: hlo.describe(stage) for name, stage in compiled.items()}
    if devices_per_sample == 1:
        results["denoise"]["of_a_step"] = compare_arithmetic(program, settings, compiled["denoise"])
    needed = program.bytes_needed()
    # Weights that are arguments of two programs count twice, which is slightly more than what is held.
    weights = sum(result["arguments"] for result in results.values()) - needed["texts"]
    total = weights + needed["batch"]
    return {
        "weights": weights,
        **needed,
        "total": total,
        "on_a_chip": program.samples_per_group,
        "devices_per_sample": devices_per_sample,
        "of_hbm": round(total / program.hbm, 3),
        "fits": program.fits(total),
        "programs": results,
    }


def compare_arithmetic(program: AbstractProgram, settings: SampleSettings, loop: Any) -> dict[str, float]:
    """Returns the GFLOP of one step of all terms, as counted and as compiled.

    Neither count includes products with the zeros around images, because compilers leave them out. The compiler does
    not count kernels, and the overlaps of pieces are not part of the method.
    """
    shape, b = program.components.latent_shape(settings), program.samples_per_group
    dtype = jnp.dtype(settings.dtype)
    all_products, outside_kernels = (count_step(shape, b, dtype, form) for form in (attend, attend_outside_kernels))
    compiled = loop.cost_analysis()["flops"]
    repeated = hlo.overlap_flops(loop.as_text(), 2 * b, shape[1] // shape[0])
    return {
        "gflop_counted": round(all_products / 1e9, 1),
        "gflop_counted_outside_kernels": round(outside_kernels / 1e9, 1),
        "gflop_compiled_outside_kernels": round(compiled / 1e9, 1),
        "gflop_of_overlaps": round(repeated / 1e9, 1),
        "compiled_to_counted": round((compiled - repeated) / outside_kernels, 3),
        "with_overlaps": round(compiled / outside_kernels, 3),
    }


def count_step(latent_shape: tuple[int, int, int], b: int, dtype: Any, form: Any) -> int:
    """Counts the floating-point operations of one step of all terms for `b` samples, with a form of attention."""
    total = 0
    for term, components in COMPONENTS.items():
        unet: Any = registry.abstract_module("unet", read_config(components["unet"]), dtype, name=term)
        time_ = jax.eval_shape(lambda unet, t: unet.project_time(t), unet, jax.ShapeDtypeStruct((1,), jnp.int32))
        text = jax.ShapeDtypeStruct((2 * b, TOKENS, unet.config.cross_attention_dim), dtype)
        text = jax.eval_shape(lambda unet, text: unet.project_text(text), unet, text)
        x = jax.ShapeDtypeStruct((2 * b, *latent_shape), jnp.float32)
        for _, layer in nnx.iter_graph(unet):
            if isinstance(layer, backends.Attention):
                layer.attend = form
        total += count_flops(lambda unet, *inputs: unet.predict(*inputs), unet, x, time_, text, count_padding=False)
    return total


def attend_outside_kernels(q, k, v):
    return q if min(q.shape[1], k.shape[1]) >= backends.SPLASH_TOKENS else attend(q, k, v)


def measure_pixel(chips: str) -> dict[str, Any]:
    """Returns the memory of each of DeepFloyd IF's modules. They need not be on the chip at the same time."""
    (device, *_), hbm, found = programs.describe_chips(chips), SLICES[chips].hbm, {}
    for name, function, arguments in programs.pixel_programs(device):
        memory = hlo.memory_bytes(jax.jit(function).lower(*arguments).compile())
        found[name] = memory | {"total": sum(memory.values()), "of_hbm": round(sum(memory.values()) / hbm, 3)}
    total = max(memory["total"] for memory in found.values())
    return {"total": total, "of_hbm": round(total / hbm, 3), "fits": total <= hbm, "programs": found}


if __name__ == "__main__":
    flags.DEFINE_list("chips", ["v5e-1"], f"Several of {', '.join(SLICES)}.")
    flags.DEFINE_list("batch", ["1", "2", "4", "8", "16", "32"], "Samples on each chip; 0 chooses like batch_size=0.")
    flags.DEFINE_integer("devices_per_sample", 1, "Number of chips that compute a sample together: 1, 2 or 4.")
    flags.DEFINE_bool("pixel", False, "Compile DeepFloyd IF's modules instead.")
    effort = "The compiler's effort, from -1 (a sixth of the time) to 1. Temporaries of a UNet differ by 3 %."
    flags.DEFINE_float("effort", -1.0, effort)
    flags.DEFINE_string("out", None, "JSON file for the results. Those of other sizes in it are kept.")
    cli.run(main)
