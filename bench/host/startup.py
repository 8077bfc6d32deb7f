"""Measures how long a user waits before anything is generated.

    python -m bench.host.startup --scratch=FOLDER --out=bench/results/startup.json

    runs      `--help` of `its_jax.sample`; the `first` run of the embedded default with an empty cache folder, in which
              models are converted and programs compiled; and the `second` run with the cache folder of the first
    loading   a random converted model of Stable Diffusion 1.5's size (see bench/host/memory.py) from files that are not
              in memory, compared with reading the same files one after another in blocks that are discarded (`disk`)

Each measurement is a process of its own, and a round takes each once. The figures are the median, the lowest and the
highest over the rounds. The command takes 13 GB of disk in FOLDER, removes its files at the end, and takes 6 minutes on
2 free cores. Loading does not include imports. Its goal is 70 % of the disk's rate.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from bench import command
from bench.host import memory
from its_jax.errors import check_choice
from its_jax.runtime import cli

GOAL = 0.7  # of the disk's rate
DTYPES = ("float32", "bfloat16")
LOAD = """
import sys, time
import jax, transformers
from its_jax.pretrained import load_model
jax.devices(), transformers.CLIPTokenizer
start = time.perf_counter()
model = load_model(sys.argv[1], components=("text_encoder", "unet", "vae"), dtype=sys.argv[2])
jax.block_until_ready((model.text_encoder, model.unet, model.vae))
print(time.perf_counter() - start)
"""


def main():
    args = flags.FLAGS
    for part in args.parts:
        check_choice("--parts", part, MEASUREMENTS)
    save = command.results_writer(args.out)
    results: dict[str, Any] = {}
    with command.scratch_folder(args.scratch) as scratch:
        for part in args.parts:
            results[part] = MEASUREMENTS[part](scratch, args.rounds)
            save({"rounds": args.rounds, **results})


def measure_runs(scratch: pathlib.Path, rounds: int) -> dict[str, Any]:
    """Returns the seconds of the command, and the peak memory of its process in megabytes."""
    environment = {**os.environ, "ITS_JAX_CACHE": str(scratch / "cache"), "JAX_PLATFORMS": "cpu"}
    found: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "peak_memory_mb": []} for name in ("help", "first", "second")
    }
    for number in range(rounds):
        shutil.rmtree(scratch / "cache", ignore_errors=True)
        for name, figures in found.items():
            arguments = ["--config=configs/default.py", f"--workdir={scratch / f'{name}{number}'}"]
            arguments = [sys.executable, "-m", "its_jax.sample", *(["--help"] if name == "help" else arguments)]
            for values, value in zip(figures.values(), run_process(arguments, environment), strict=True):
                values.append(value)
            print(name, {key: values[-1] for key, values in figures.items()}, flush=True)
    return {name: {key: command.spread(values) for key, values in figures.items()} for name, figures in found.items()}


def run_process(arguments: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Returns the seconds and megabytes of a process; raises SystemExit if it fails."""
    start, null = time.perf_counter(), subprocess.DEVNULL
    child = subprocess.Popen(arguments, cwd=command.ROOT, env=environment, stdout=null, stderr=null)
    _, ended, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(ended)
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed with status {child.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def measure_loading(scratch: pathlib.Path, rounds: int) -> dict[str, Any]:
    """Returns the rates of the disk and of loading, and their ratio in each round."""
    memory.write_model(scratch / "model")
    memory.run("convert", scratch / "model", scratch / "converted")
    shutil.rmtree(scratch / "model")
    files = sorted(path for path in (scratch / "converted").rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    reading: dict[str, Callable[[], float]] = {"disk": lambda: read(files)}
    reading |= {dtype: functools.partial(load, scratch / "converted", dtype) for dtype in DTYPES}
    rates: dict[str, list[float]] = {name: [] for name in reading}
    for _ in range(rounds):
        for name, measure in reading.items():
            evict(files)
            seconds = measure()
            rates[name].append(size / seconds / 1e6)
            print(f"{name:8} {seconds:7.2f} s {rates[name][-1]:7.0f} MB/s", flush=True)
    figures: dict[str, Any] = {name: {"mb_per_second": command.spread(rate)} for name, rate in rates.items()}
    for dtype in DTYPES:
        figures[dtype]["of_disk"] = command.spread([a / b for a, b in zip(rates[dtype], rates["disk"], strict=True)])
        figures[dtype]["holds"] = figures[dtype]["of_disk"]["median"] >= GOAL
    return {"files_mb": round(size / 1e6), **figures}


def evict(files: Sequence[pathlib.Path]) -> None:
    """Removes the pages of files from memory; raises SystemExit if some of them remain."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    nonempty = [str(path) for path in files if path.stat().st_size]
    arguments = ["fincore", "--bytes", "--noheadings", "--output=RES", *nonempty]
    left = sum(map(int, subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()))
    if left:
        raise SystemExit(f"{left} bytes of the files remain in memory: their rate would not be the disk's")


def read(files: Sequence[pathlib.Path]) -> float:
    """Returns the seconds of reading all files in blocks of 16 MB."""
    block = memoryview(bytearray(2**24))
    start = time.perf_counter()
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(block):
                pass
    return time.perf_counter() - start


def load(folder: pathlib.Path, dtype: str) -> float:
    """Returns the seconds of loading a model in a process of its own, without imports."""
    environment, arguments = {**os.environ, "JAX_PLATFORMS": "cpu"}, [sys.executable, "-c", LOAD, str(folder), dtype]
    return float(subprocess.check_output(arguments, cwd=command.ROOT, env=environment))


MEASUREMENTS = {"runs": measure_runs, "loading": measure_loading}


if __name__ == "__main__":
    flags.DEFINE_string("scratch", None, "Folder with 13 GB of space [the system's for temporary files].")
    flags.DEFINE_integer("rounds", 3, "How often each is measured.", lower_bound=1)
    flags.DEFINE_list("parts", list(MEASUREMENTS), "What is measured.")
    flags.DEFINE_string("out", None, "JSON file for the results.")
    cli.run(main)
