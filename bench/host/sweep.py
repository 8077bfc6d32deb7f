"""Measures what sweeps add to the programs that they run.

    python -m bench.host.sweep --scratch=FOLDER --out=bench/results/sweep.json

    rate    samples per second of a sweep, including encoding of prompts and writing of files, compared with the bare
            programs (denoise, decode, vocode) on the same batches, in alternating rounds
    many    100,000 samples without models: seconds for planning them, and for scanning a work folder in which all of
            them are finished, in each layout (with records but no other files), and peak memory

The goals are 95 % of the bare rate, 10 s, 10 s and 500 MB.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from typing import Any

from absl import flags

from bench import command
from its_jax.errors import check_choice
from its_jax.runtime import cli
from its_jax.storage.files import json_bytes, read_json

SAMPLES = 100_000
LAYOUTS = ("folders", "shards")


def main():
    from bench.host.sweep_rate import measure_rate  # not at the top: `many` measures the memory of its own imports

    args = flags.FLAGS
    for part in args.parts:
        check_choice("--parts", part, ("rate", "many"))
    save = command.results_writer(args.out)
    results = read_json(args.out)["results"] if args.out and pathlib.Path(args.out).exists() else {}
    with command.scratch_folder(args.scratch) as scratch:
        for part in args.parts:
            results[part] = measure_many(scratch) if part == "many" else measure_rate(scratch, args.rounds)
            print(f"{part}: {json.dumps(results[part])}", flush=True)
            save({"results": results})


def measure_many(scratch: pathlib.Path) -> dict[str, Any]:
    """Returns seconds and peak memory of planning and of scanning in each layout."""
    results: dict[str, Any] = {"jobs": SAMPLES, "plan": run_separately("plan_many", scratch / "none")}
    for layout in LAYOUTS:
        write_records(scratch / layout, layout)
        results[f"scan_{layout}"] = run_separately("scan_many", scratch / layout)
    return results


def run_separately(function: str, folder: pathlib.Path) -> dict[str, Any]:
    """Runs a function of this module in a process of its own, because it reports the peak memory of its process."""
    program = "import json, pathlib, sys; from bench.host import sweep\n"
    program += f"print(json.dumps(sweep.{function}(pathlib.Path(sys.argv[1]))))"
    arguments = [sys.executable, "-c", program, str(folder)]
    run = subprocess.run(arguments, cwd=command.ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def many_settings():
    from configs import default
    from its_jax.sweep import grid

    settings = default.get_config().to_dict() | {"num_samples": 1}
    images = [f"a painting of thing {i}, grayscale" for i in range(500)]
    audio = [f"sound {i}" for i in range(50)]
    return grid.read_grid(settings, {"image": {"prompt": images}, "audio": {"prompt": audio}, "seed": "0..3"})


def plan_many(folder: pathlib.Path) -> dict[str, float]:
    """Returns the seconds of reading the grid and planning its batches, and the peak memory."""
    from its_jax.generate import batches

    start = time.perf_counter()
    requested = many_settings()
    groups = batches.program_groups(requested)
    read = time.perf_counter() - start
    (planned,) = [batches.plan_batches(folder, group, 8) for group in groups]
    assert len(requested) == SAMPLES and sum(map(len, planned)) == SAMPLES
    return {"seconds": round(time.perf_counter() - start, 2), "of_them_the_grid": round(read, 2), "peak_mb": peak_mb()}


def scan_many(folder: pathlib.Path) -> dict[str, float]:
    """Returns the seconds of finding out that all samples of a folder are finished, and the peak memory."""
    from its_jax.generate import batches
    from its_jax.storage import writers

    requested = many_settings()
    layout = "shards" if (folder / writers.SHARDS).exists() else "folders"
    start = time.perf_counter()
    done = writers.open_writer(layout, folder).finished() & requested.keys()
    (group,) = batches.program_groups(requested)
    assert len(done) == SAMPLES and group.requested.keys() <= done
    return {"seconds": round(time.perf_counter() - start, 2), "peak_mb": peak_mb()}


def peak_mb():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def write_records(folder: pathlib.Path, layout: str) -> None:
    """Writes finished samples with records of the usual length and no other files, without waiting for the disk."""
    from its_jax.storage import files, writers

    os.fsync = lambda file: None  # type: ignore[assignment]
    files.write = lambda path, data: pathlib.Path(path).write_bytes(data)  # type: ignore[assignment]
    writer = writers.open_writer(layout, folder, "shard-0-of-1")
    for name, settings in many_settings().items():
        record = settings.to_dict()
        record |= {"id": name, "run": {"batch_size": 8, "position": 0}, "models": {}, "versions": {}}
        record["seconds"] = dict.fromkeys(("load", "compile", "encode", "denoise", "decode", "vocode", "write"), 0.1)
        record["models"] = {term: {"source": "x" * 40, "sha256": "0" * 64} for term in ("image", "audio")}
        writer.add(name, [("sample.json", json_bytes(record))])
    writer.close()


if __name__ == "__main__":
    flags.DEFINE_list("parts", ["rate", "many"], "What is measured.")
    flags.DEFINE_string("scratch", None, "Folder for temporary files [the system's].")
    flags.DEFINE_integer("rounds", 5, "Rounds of the rate.", lower_bound=1)
    flags.DEFINE_string("out", None, "JSON file for the results. Those of other parts in it are kept.")
    cli.run(main)
