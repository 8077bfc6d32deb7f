"""All that there is to measure on one GPU, in one command; what has been measured is kept, and not measured again.

    python -m bench.gpu --scratch=FOLDER

FOLDER takes 10 GB: models of full size with random weights, and their conversion. Each piece is a process of its own,
whose figures are put into `bench/results/gpu.json` as soon as it ends: a piece that fails, or a machine that is taken
away, costs no other piece, and the same command goes on with what is missing. At the end the goals are told.

    its_jax.benchmark   seconds, arithmetic and memory of a sample at batch sizes 1 to 32, up to where memory ends
    bench.peer          a sample at batch sizes 1 to 8 against PyTorch's; and against the authors' loop
    bench.trace         where the time goes in a step

`--dry` goes the same way at two steps with the embedded models, on any machine; its figures mean nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from its_jax import fields, media

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench" / "results" / "gpu.json"


class Setting(NamedTuple):
    """What is measured: full size, or the dry run."""

    config: str
    models: Path
    dtype: str
    steps: int
    batches: tuple[int, ...]
    peer_batches: tuple[int, ...]
    peer_flags: tuple[str, ...]


class Goal(NamedTuple):
    name: str
    target: float
    found: float | None  # None: not measured


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scratch", type=Path, required=True, help="a folder with 10 GB of room")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--dry", action="store_true", help="all the way with the embedded models, on any machine")
    args = parser.parse_args()
    figures = measure(setting(args.scratch, args.dry), args.scratch, args.out)
    for line in (*memory_table(figures), "", *table(goals(figures))):
        print(line)


def setting(scratch: Path, dry: bool) -> Setting:
    if dry:
        return Setting(
            config="configs/default.py",
            models=ROOT / "its_jax" / "tiny" / "weights",
            dtype="float32",
            steps=2,
            batches=(1, 2),
            peer_batches=(1,),
            peer_flags=("--rounds=1", "--forms=eager"),
        )
    return Setting(
        config="configs/sd15_auffusion.py",
        models=scratch / "models",
        dtype="bfloat16",
        steps=100,
        batches=(1, 2, 4, 8, 16, 32),
        peer_batches=(1, 2, 4, 8),
        peer_flags=("--rounds=5",),
    )


def measure(setting: Setting, scratch: Path, out: Path) -> dict[str, Any]:
    """Piece -> its figures, or its `fault`; those that `out` holds already are taken from there."""
    figures = fields.read_json(out) if out.exists() else {}
    environment = {**os.environ, "ITS_JAX_CACHE": str((scratch / "cache").absolute())}
    if not (setting.models / "audio" / "tokenizer" / "tokenizer_config.json").exists():  # which is written last
        _run(["bench.full_size", f"--out={setting.models}"], environment)
    for name, command in pieces(setting, figures):
        if "fault" not in figures.get(name, {"fault": "not measured"}):
            continue
        print(f"{name}: python -m {' '.join(command)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "out.json"
            status = _run([*command, f"--out={made}"], environment)
            found = fields.read_json(made) if made.exists() else {}
        figures[name] = found | ({"fault": f"exit status {status}"} if status else {})
        out.parent.mkdir(parents=True, exist_ok=True)
        media.write_json(out, figures)
    return figures


def pieces(setting: Setting, figures: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each; what comes next may depend on what has been found by then."""
    config = ROOT / setting.config
    values = {f"{term}.model": setting.models / term for term in ("image", "audio")}
    values |= {"dtype": setting.dtype, "num_steps": setting.steps}
    values |= {"image.start_step": 0} if setting.steps < 10 else {}
    flags = [f"--config={config}", *(f"--config.{name}={value}" for name, value in values.items())]
    for b in setting.batches:
        if not any("fault" in of and of["batch_size"] < b for of in batches(figures)):  # memory has not ended yet
            yield f"benchmark, batch {b}", ["its_jax.benchmark", *flags, f"--batches={b}"]
    same = [f"--config={config}", f"--models={setting.models}", f"--dtype={setting.dtype}"]
    peer = [f"--steps={setting.steps}", *setting.peer_flags]
    for b in setting.peer_batches:
        yield f"peer, batch {b}", ["bench.peer", "--parts=sample", f"--batch={b}", *same, *peer]
    best = best_batch(figures)
    for b in sorted({1, best or 1}):
        yield f"authors, batch {b}", ["bench.peer", "--parts=authors", f"--batch={b}", *same, *peer]
        yield f"trace, batch {b}", ["bench.trace", f"--batch={b}", *same, f"--steps={min(setting.steps, 20)}"]


def _run(command, environment):
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment).returncode


def batches(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the benchmark says of each size of batch."""
    return [of for name, piece in figures.items() if name.startswith("benchmark") for of in piece.get("batches", [])]


def best_batch(figures: Mapping[str, Any]) -> int | None:
    """The size of batch with the most samples a second."""
    measured = [of for of in batches(figures) if "stages" in of]
    return max(measured, key=_rate)["batch_size"] if measured else None


def _rate(of_batch):
    return of_batch["stages"]["all"]["samples_per_second"]


def goals(figures: Mapping[str, Any]) -> list[Goal]:
    """What was asked for, and what was found."""
    best = best_batch(figures) or "?"
    share = [of["stages"]["all"]["of_matrix_product"] for of in batches(figures) if of["batch_size"] == best]
    speedups = {name: _speedups(of) for name, of in figures.items()}
    compiled = {name: of["compiled"] for name, of in speedups.items() if name.startswith("peer") and "compiled" in of}
    traces = [of["program"] for name, of in figures.items() if name.startswith("trace") and "program" in of]
    return [
        *(
            Goal(
                f"x the authors' loop, a sample at batch {b}",
                asked,
                speedups.get(f"authors, batch {b}", {}).get("eager"),
            )
            for b, asked in ((1, 2), (best, 8))
        ),
        *(Goal(f"x compiled PyTorch, {name.removeprefix('peer, ')}", 1.15, of) for name, of in compiled.items()),
        *([] if compiled else [Goal("x compiled PyTorch", 1.15, None)]),
        Goal(f"of the matrix product, batch {best}", 0.5, share[0] if share else None),
        Goal("fused attentions in the program", 1, min((of["fused_attentions"] for of in traces), default=None)),
        Goal("programs without talk with the host", 1, float(not _talks(traces)) if traces else None),
    ]


def _speedups(of_piece):
    """Form of PyTorch -> its seconds / ours, from the one result of a run of `bench.peer`."""
    ratios = [result["ratio"] for result in of_piece.get("results", {}).values()]
    return {form: 1 / of["median"] for form, of in ratios[0].items()} if ratios else {}


def _talks(programs):
    return any(of["host_operations"] for of in programs)


def table(rows: list[Goal]) -> Iterator[str]:
    yield f"{'goal':48} {'asked':>8} {'found':>8}"
    for goal in rows:
        if goal.found is None:
            yield f"{goal.name:48} {goal.target:8.4g} {'':>8} not measured"
        else:
            missed = "met" if goal.found >= goal.target else f"missed by {1 - goal.found / goal.target:.0%}"
            yield f"{goal.name:48} {goal.target:8.4g} {goal.found:8.3g} {missed}"


def memory_table(figures: Mapping[str, Any]) -> Iterator[str]:
    """Each size of batch, with memory."""
    yield f"{'batch':>5} {'s a sample':>12} {'samples/s':>10} {'GFLOP/s':>10} {'of product':>10} {'peak MB':>10}"
    for of in batches(figures):
        if "stages" not in of:
            yield f"{of['batch_size']:5} {of['fault']}"
            continue
        whole = of["stages"]["all"]
        rates = f"{whole['sample_seconds']:12.4g} {whole['samples_per_second']:10.4g} {whole['gflops']:10.0f}"
        yield f"{of['batch_size']:5} {rates} {whole['of_matrix_product']:10.0%} {of['peak_memory_mb']:10}"


if __name__ == "__main__":
    main()
