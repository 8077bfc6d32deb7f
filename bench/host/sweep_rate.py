"""Compares the rate of a sweep with that of its bare programs. It contains all uses of our pipeline in `bench/host`."""

import statistics
import time
from pathlib import Path
from typing import Any

from bench import command
from configs import sweep
from its_jax import Pipeline
from its_jax.generate import batches as generate_batches
from its_jax.generate.samples import writing
from its_jax.runtime import cache
from its_jax.settings.schema import RunOptions
from its_jax.storage import writers
from its_jax.sweep import grid

BATCHES = 6  # of a round


def measure_rate(scratch: Path, rounds: int) -> dict[str, Any]:
    """Returns seconds per sample of both, and the ratio of the sweep's rate to that of the bare programs."""
    settings = sweep.get_config().to_dict()
    requested = grid.read_grid(settings, settings.pop("grid"))
    (group,) = generate_batches.program_groups(requested)
    cache.keep_programs()
    program = Pipeline().compile(next(iter(requested.values())), pending=len(requested))
    planned = generate_batches.plan_batches(scratch / "plan", group, program.batch_size)[:BATCHES]
    batches = [[requested[name] for name in batch] for batch in planned]

    options = RunOptions(num_samples=1, batch_size=0, devices_per_sample=1, video=False)

    def run_bare():
        for batch in batches:
            program(batch)

    def run_sweep(folder):
        program.components.prompts.forget()  # the sweep encodes its prompts
        with writing(writers.FolderWriter(folder), sum(batches, []), options) as runner:
            for batch in batches:
                runner.run_all(program, batch)

    run_bare()
    seconds: dict[str, list[float]] = {"bare": [], "sweep": []}
    for i in range(rounds):
        for side in ("bare", "sweep") if i % 2 else ("sweep", "bare"):
            start = time.perf_counter()
            run_bare() if side == "bare" else run_sweep(scratch / f"rate-{i}")
            seconds[side].append(time.perf_counter() - start)
    count = sum(map(len, batches))
    ratios = [bare / swept for bare, swept in zip(seconds["bare"], seconds["sweep"], strict=True)]
    return {
        "batch_size": program.batch_size,
        "samples_a_round": count,
        "seconds_a_sample": {side: round(statistics.median(each) / count, 4) for side, each in seconds.items()},
        "of_the_bare_rate": command.spread(ratios),
    }
