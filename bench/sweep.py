"""What sweeps add to the programs that they run, by hand:

    python -m bench.sweep --scratch=FOLDER --out=bench/results/sweep.json

    rate    samples a second of a sweep, encoding of prompts and writing of files included, against the bare programs
            (denoise, decode, vocode) on the same batches; rounds of both, one after the other
    many    100,000 samples without models: seconds for planning, and for the scan of a work folder in which all of them
            are done, in each layout (of each sample the record alone is made for it), and peak memory
    kills   a sweep with noise in place of models is killed (SIGKILL) at random moments until it is through, again and
            again: whether each has made what an unbroken one makes

95 % of the bare rate, 10 s, 10 s and 500 MB are the goals. FOLDER is made anew, and removed at the end.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import flags
from bench.about import about
from its_jax.runtime import cache
from its_jax.storage.files import json_bytes, write_json

ROOT = Path(__file__).parents[1]
PARTS = ("rate", "many", "kills")
JOBS = 100_000
BATCHES = 6  # of a round


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", type=flags.names(PARTS), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--scratch", type=Path, required=True, help="a folder for files, made anew")
    parser.add_argument("--rounds", type=flags.at_least(1), default=5)
    parser.add_argument("--kills", type=flags.at_least(1), default=100, help="so many at least, over several sweeps")
    parser.add_argument("--out", type=Path, help="JSON file for the results; those of other parts in it are kept")
    parser.add_argument("--only", choices=("plan", "scan"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    with flags.told(parser):
        run(args)


def run(args):
    if args.only:
        print(json.dumps({"plan": planned, "scan": scanned}[args.only](args.scratch)))
        return
    flags.check_out(args.out)
    flags.make_folder("--scratch", args.scratch, new=True)
    results = json.loads(args.out.read_text())["results"] if args.out and args.out.exists() else {}
    try:
        for part in args.parts:
            results[part] = {"rate": rate, "many": many, "kills": kills}[part](args)
            print(f"{part}: {json.dumps(results[part])}", flush=True)
            if args.out:
                write_json(args.out, about() | {"results": results})
    finally:
        shutil.rmtree(args.scratch)


# Rate


def rate(args):
    from configs import sweep
    from its_jax.generate import batches as generate_batches
    from its_jax.generate import groups as generate_groups
    from its_jax.generate import production
    from its_jax.settings.schema import RunOptions
    from its_jax.storage import writers
    from its_jax.sweep import grid as sweep_grid

    settings = sweep.get_config().to_dict()
    requested = sweep_grid.read_grid(settings, settings.pop("grid"))
    (group,) = generate_batches.program_groups(requested)
    options = RunOptions(num_samples=1, batch_size=0, devices_per_sample=1, video=False)
    cache.keep_programs()
    representatives = generate_batches.batch_representatives(group)
    sampler = generate_groups.sampler_for(representatives, args.scratch / "plan", len(requested), 0, options)
    batches = generate_batches.plan_batches(args.scratch / "plan", group, sampler.batch_size)[:BATCHES]
    batches = [[group.requested[name] for name in batch] for batch in batches]
    for batch in batches:
        sampler(batch)
    seconds = {"bare": [], "sweep": []}
    for i in range(args.rounds):
        for side in ("bare", "sweep") if i % 2 else ("sweep", "bare"):
            start = time.perf_counter()
            if side == "bare":
                for batch in batches:
                    sampler(batch)  # whose prompts have been encoded
            else:
                sampler._texts.clear()
                folder = writers.FolderWriter(args.scratch / f"rate-{i}")
                with production.pipeline(folder, sum(batches, []), video=False) as line:
                    for batch in batches:
                        line.make(sampler, batch)
            seconds[side].append(time.perf_counter() - start)
    count = sum(map(len, batches))
    ratios = [bare / swept for bare, swept in zip(seconds["bare"], seconds["sweep"], strict=True)]
    return {
        "batch_size": sampler.batch_size,
        "samples_a_round": count,
        "seconds_a_sample": {side: round(statistics.median(of) / count, 4) for side, of in seconds.items()},
        "of_the_bare_rate": {
            "median": round(statistics.median(ratios), 3),
            "low": round(min(ratios), 3),
            "high": round(max(ratios), 3),
        },
    }


# Many


def many(args):
    result = {"jobs": JOBS, "plan": apart("plan", args.scratch / "none")}
    for layout in ("folders", "shards"):
        folder = args.scratch / layout
        fill(folder, layout)
        result[f"scan_{layout}"] = apart("scan", folder)
    return result


def apart(what, folder):
    """In a process of its own, whose peak memory is told with it."""
    command = [sys.executable, "-m", "bench.sweep", f"--only={what}", f"--scratch={folder}"]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def many_settings():
    from configs import default
    from its_jax.sweep import grid as sweep_grid

    settings = default.get_config().to_dict() | {"num_samples": 1}
    pictures = [f"a painting of thing {i}, grayscale" for i in range(500)]
    sounds = [f"sound {i}" for i in range(50)]
    return sweep_grid.read_grid(settings, {"image": {"prompt": pictures}, "audio": {"prompt": sounds}, "seed": "0..3"})


def planned(folder):
    from its_jax.generate import batches as generate_batches

    start = time.perf_counter()
    requested = many_settings()
    groups = generate_batches.program_groups(requested)
    read = time.perf_counter() - start
    (batches,) = [generate_batches.plan_batches(folder, group, 8) for group in groups]
    assert len(requested) == JOBS and sum(map(len, batches)) == JOBS
    return {"seconds": round(time.perf_counter() - start, 2), "of_them_the_grid": round(read, 2), "peak_mb": peak_mb()}


def scanned(folder):
    from its_jax.generate import batches as generate_batches
    from its_jax.storage import writers

    requested = many_settings()
    layout = "shards" if (folder / writers.SHARDS).exists() else "folders"
    start = time.perf_counter()
    done = writers.open_writer(layout, folder).finished() & requested.keys()
    (group,) = generate_batches.program_groups(requested)
    assert len(done) == JOBS and group.requested.keys() <= done
    return {"seconds": round(time.perf_counter() - start, 2), "peak_mb": peak_mb()}


def peak_mb():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def fill(folder, layout):
    """Finished samples with records of the usual length and nothing else, without waiting for the disk."""
    from its_jax.storage import files, writers

    os.fsync = lambda file: None
    files.write = lambda path, data: path.write_bytes(data)
    kept = writers.open_writer(layout, folder, "shard-0-of-1")
    for name, settings in many_settings().items():
        record = settings.to_dict()
        record |= {"id": name, "run": {"batch_size": 8, "position": 0}, "models": {}, "versions": {}}
        record["seconds"] = dict.fromkeys(("load", "compile", "encode", "denoise", "decode", "vocode", "write"), 0.1)
        record["models"] = {term: {"source": "x" * 40, "sha256": "0" * 64} for term in ("image", "audio")}
        kept.add(name, [("sample.json", json_bytes(record))])
    kept.close()


# Kills


def kills(args):
    result = {}
    for layout in ("folders", "shards"):
        whole = latents(swept(args.scratch / f"whole-{layout}", layout, 0).wait(), args.scratch / f"whole-{layout}")
        rng, count, sweeps, same = random.Random(0), 0, 0, True
        while count < args.kills:
            folder, done = args.scratch / f"{layout}-{sweeps}", False
            while not done:
                process = swept(folder, layout, 0.1)
                time.sleep(rng.uniform(0.5, 5))
                done = process.poll() is not None
                if not done:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    count += 1
            strays = [path for path in folder.rglob(".*.tmp")]
            same &= process.returncode == 0 and not strays and latents(0, folder) == whole
            sweeps += 1
        result[layout] = {"kills": count, "sweeps": sweeps, "all_as_unbroken": same}
    return result


def swept(folder, layout, seconds):
    sizes = ["--config.height=16", "--config.width=32", "--config.num_samples=1", "--config.video=False"]
    grid = ["--axis=seed=0..99", "--axis=image.prompt=a castle,a dog"]
    command = [sys.executable, "tests/sweep_driver.py", "--config=configs/default.py", f"--workdir={folder}"]
    return subprocess.Popen(
        [*command, f"--layout={layout}", *sizes, *grid],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SECONDS_OF_BATCH": str(seconds)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def latents(status, folder):
    from its_jax.storage import samples

    assert status == 0
    return {name: sample.record["run"]["latents_sha256"] for name, sample in samples.open_samples(folder).items()}


if __name__ == "__main__":
    main()
