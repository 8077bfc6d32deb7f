"""How long one waits before anything is made, run by hand:

    python -m bench.startup --scratch=FOLDER --out=bench/results/startup.json

    --help    of `its_jax.sample`
    first     run of the embedded default with an empty cache folder: models are converted, programs compiled
    second    run with the cache folder that the first has left
    loading   a converted model of Stable Diffusion 1.5's size (random, see bench/memory.py), from files that are not
              in memory, against reading the same files one after the other, in blocks that are forgotten (`disk`) and
              into memory of their size (`kept`, which loading needs too); all in bytes of the files

Each is a process of its own, and a round has each once; the figures are medians, least and most over the rounds. It
takes 13 GB of disk in FOLDER, which is emptied at the end, and on 2 free cores 6 minutes. Of loading, imports are no
part; 70 % of the disk's rate is the bound.
"""

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import flags, memory
from bench.about import about
from its_jax.storage.files import write_json

ROOT = Path(__file__).parents[1]
BOUND = 0.7  # of the disk's rate
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

KEEP = """
import sys, time
import numpy as np
start, kept = time.perf_counter(), []
for path in sys.argv[1:]:
    with open(path, "rb", buffering=0) as file:
        kept.append(np.empty(file.seek(0, 2), np.uint8))
        file.seek(0)
        left = memoryview(kept[-1])
        while len(left):
            left = left[file.readinto(left):]
print(time.perf_counter() - start)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scratch", type=Path, required=True, help="a new folder with 13 GB of room")
    parser.add_argument("--rounds", type=flags.at_least(1), default=3)
    parser.add_argument("--parts", type=flags.names(MEASURES), default=list(MEASURES), help="with a comma between")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    with flags.told(parser):
        flags.check_out(args.out)
        flags.make_folder("--scratch", args.scratch, new=True)
        try:
            measure(args)
        finally:
            shutil.rmtree(args.scratch)


def measure(args):
    results = {}
    for part in args.parts:
        results[part] = MEASURES[part](args.scratch, args.rounds)
        if args.out is not None:  # after each: a long run may be cut off
            write_json(args.out, about() | {"rounds": args.rounds} | results)


def runs(scratch, rounds):
    """Seconds of the command, and the peak memory of its process in megabytes."""
    environment = {**os.environ, "ITS_JAX_CACHE": str(scratch / "cache"), "JAX_PLATFORMS": "cpu"}
    found = {"help": [], "first": [], "second": []}
    for number in range(rounds):
        shutil.rmtree(scratch / "cache", ignore_errors=True)
        for name in found:
            flags = ["--config=configs/default.py", f"--workdir={scratch / f'{name}{number}'}"]
            command = [sys.executable, "-m", "its_jax.sample", *(["--help"] if name == "help" else flags)]
            found[name].append(process(command, environment, status=int(name == "help")))  # 1 is absl's for --help
            print(f"{name:8} {found[name][-1][0]:7.2f} s {found[name][-1][1]:7.0f} MB", flush=True)
    return {
        name: {"seconds": spread([s for s, _ in of]), "peak_memory_mb": spread([mb for _, mb in of])}
        for name, of in found.items()
    }


def process(command, environment, status):
    """Seconds and megabytes of a process; SystemExit if it does not end with `status`."""
    start = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, ended, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(ended)
    if child.returncode != status:
        raise SystemExit(f"{' '.join(command)} failed with status {child.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def loading(scratch, rounds):
    """Rates of the disk and of loading, and in each round their ratio."""
    memory.write_model(scratch / "model")
    memory.run("convert", scratch / "model", scratch / "converted")
    shutil.rmtree(scratch / "model")
    files = sorted(path for path in (scratch / "converted").rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    reading = {"disk": lambda: read(files), "kept": lambda: process_seconds(KEEP, *files)}
    reading |= {dtype: functools.partial(process_seconds, LOAD, scratch / "converted", dtype) for dtype in DTYPES}
    rates = {name: [] for name in reading}
    for _ in range(rounds):
        for name in rates:
            forget(files)
            seconds = reading[name]()
            rates[name].append(size / seconds / 1e6)
            print(f"{name:8} {seconds:7.2f} s {rates[name][-1]:7.0f} MB/s", flush=True)
    figures = {"files_mb": round(size / 1e6)} | {name: {"mb_per_second": spread(rates[name])} for name in rates}
    for dtype in DTYPES:
        for of in ("disk", "kept"):
            shares = [rate / best for rate, best in zip(rates[dtype], rates[of], strict=True)]
            figures[dtype][f"of_{of}"] = spread(shares)
        figures[dtype]["holds"] = figures[dtype]["of_disk"]["median"] >= BOUND
    return figures


def forget(files):
    """Takes the files' pages out of memory, and sees that they are gone."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = ["fincore", "--bytes", "--noheadings", "--output=RES", *(path for path in files if path.stat().st_size)]
    left = sum(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))
    if left:
        raise SystemExit(f"{left} bytes of the files stay in memory: their rate would not be the disk's")


def read(files):
    """Seconds of reading all files, in blocks of 16 MB."""
    block = memoryview(bytearray(2**24))
    start = time.perf_counter()
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(block):
                pass
    return time.perf_counter() - start


def process_seconds(program, *arguments):
    """What a Python program on the CPU prints, the seconds it took."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return float(subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def spread(values):
    """Median, least and most, in four digits."""
    figures = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


MEASURES = {"runs": runs, "loading": loading}


if __name__ == "__main__":
    main()
