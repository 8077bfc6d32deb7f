"""Compares our speed with PyTorch's on the same work, in turns in one run, with the same weights.

    python -m bench.peer --parts=unet,vae,vocoder --dtype=float32 --out=bench/results/peer_cpu_parts_float32.json
    python -m bench.peer --parts=embedded --out=bench/results/peer_cpu_embedded.json
    python -m bench.peer --parts=sample,authors --models=FOLDER --dtype=bfloat16 --batch=1,2,4,8

bench/peer/parts.py describes the parts. `sample` and `authors` need full-size models, which `python -m
bench.peer.random_models` writes. PyTorch runs with its best settings: channels last, scaled dot product attention, and
these forms: `eager`; `compiled` by `torch.compile`; on a GPU also `graphs`, which adds CUDA graphs; on a CPU also
`frozen`, whose weights are packed when it is compiled. Each round times each form once. A ratio is ours / PyTorch's
seconds per sample in one round; the median and the range over the rounds are reported. A form that fails is left out,
and the reason is reported. The results of both sides must agree (`check_agreement`), or the comparison is void.

`limit_seconds` is how long the arithmetic takes at the higher of both sides' rates in a plain matrix product;
Winograd's transforms avoid some of it. Peak memory is measured in a process for ours and one for PyTorch's best form.
On Linux it excludes what loading and compiling took.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory of the same device

import jax
import torch
from absl import flags
from ml_collections import config_flags

from bench import command
from bench.peer import contest
from bench.peer.parts import DEVICE, FULL_SIZE, WORK, Options
from its_jax.errors import UserError, check_choice
from its_jax.runtime import cli, hardware
from its_jax.settings.schema import DTYPES


def main():
    args = flags.FLAGS
    for part in args.parts:
        check_choice("--parts", part, WORK)
    for form in args.forms:
        check_choice("--forms", form, contest.FORMS)
    batches = command.read_integers("--batch", args.batch, least=1)
    check_device()
    options = Options(args.config.to_dict(), Path(args.models), args.dtype, args.steps)
    sizes = [(part, b) for part in args.parts for b in batches or [WORK[part][1]]]
    if args.only:
        print(peak_memory(*sizes[0], options, args.only))
        return
    compare(sizes, options, args)


def check_device() -> None:
    """Raises UserError unless JAX and PyTorch are on the same kind of device."""
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform != DEVICE:
        raise UserError(f"JAX is on {platform}, PyTorch on {DEVICE}: install both for one, or set JAX_PLATFORMS=cpu")


def compare(sizes: list[tuple[str, int]], options: Options, args: flags.FlagValues) -> None:
    """Times each part at each batch size and writes the results after each; raises UserError if results disagree."""
    save = command.results_writer(args.out)
    if DEVICE == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # JAX's default there
    rates = contest.matrix_rates(options.dtype)
    facts: dict[str, Any] = {name: getattr(args, name) for name in ("dtype", "rounds", "steps")}
    facts["torch_threads"] = torch.get_num_threads()
    facts["matrix_product_gflops"] = {side: round(rate / 1e9, 1) for side, rate in rates.items()}
    results: dict[str, Any] = {}
    for part, b in sizes:
        work = WORK[part][0](b, options)
        forms = [form for form in args.forms if form in (work.forms or args.forms)] or list(work.forms or ())
        result = contest.run(work, args.rounds, forms)
        result |= contest.limit(work.count_flops(), max(rates.values()))
        del work
        torch.compiler.reset()  # frees the models, so that the next processes have room for theirs
        gc.collect()
        if not args.skip_memory:
            sides = "ours", result["best_of_pytorch"]
            result["peak_memory_mb"] = {side: measure_memory(part, b, side) for side in sides}
        results[f"{part}, batch {b}"] = result
        print(f"{part}, batch {b}: {json.dumps(result)}", flush=True)
        save({**facts, "results": results})
        contest.check_agreement(part, options.dtype, result["relative_difference"])


def measure_memory(part: str, b: int, side: str) -> int | str:
    """Returns the megabytes of a process that runs one side twice, or the reason why it failed."""
    command_line = [sys.executable, "-m", "bench.peer", *sys.argv[1:]]
    command_line += [f"--parts={part}", f"--batch={b}", f"--only={side}"]
    run = subprocess.run(command_line, capture_output=True, text=True)
    if run.returncode:
        return " ".join([f"exit status {run.returncode}", *run.stderr.strip().splitlines()[-1:]])[:300]
    return round(int(run.stdout.split()[-1]) / 1e6)


def peak_memory(part: str, b: int, options: Options, side: str) -> int:
    """Returns the peak memory of one side in bytes, without what loading and compiling took."""
    work = WORK[part][0](b, options)
    run = work.ours() if side == "ours" else work.theirs()(contest.FORMS[side])
    run()
    hardware.reset_peak()
    run()
    run()
    if side == "ours" or DEVICE == "cpu":
        return hardware.peak_memory()
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    flags.DEFINE_list("parts", ["unet", "vae", "vocoder"], f"Several of {', '.join(WORK)}.")
    flags.DEFINE_enum("dtype", "float32", DTYPES, "Dtype of both sides.")
    flags.DEFINE_list("batch", [], "Batch sizes. The default depends on the part.")
    flags.DEFINE_integer("rounds", 5, "How often each side is timed.", lower_bound=1)
    flags.DEFINE_list("forms", list(contest.FORMS), "Forms of PyTorch. Compiling takes minutes.")
    config_flags.DEFINE_config_file("config", None, "Settings of the parts sample and authors.", lock_config=True)
    flags.DEFINE_string("models", "", "Folder of their models: MODELS/image and MODELS/audio.")
    flags.DEFINE_integer("steps", None, "Number of steps, in place of the config's.", lower_bound=1)
    flags.DEFINE_string("out", None, "JSON file for the results.")
    flags.DEFINE_bool("skip_memory", False, "Skip the processes that measure memory: they load and compile again.")
    flags.DEFINE_enum("only", None, ["ours", *contest.FORMS], "Print the peak memory of this side, in bytes.")
    cli.run(main, config=FULL_SIZE)
