"""All that there is to measure on one GPU, in one command; what has been measured is kept, and not measured again.

    python -m bench.gpu --scratch=FOLDER

FOLDER takes 10 GB: models of full size with random weights, and their conversion. Each piece is a process of its own,
whose figures are put into `bench/results/gpu.json` as soon as it ends: a piece that fails, or a machine that is taken
away, costs no other piece, and the same command goes on with what is missing. Figures of another device, setting or
version of the models' code are left alone: they need another `--out`. At the end the goals are told.

    bench.attention     cuDNN's attention against the plain one: whether it is right
    its_jax.benchmark   seconds, arithmetic and memory of a sample at batch sizes 1 to 32, up to where memory ends
    bench.peer          UNet and samples at batch sizes 1 and 8 against PyTorch's; samples against the authors' loop
    bench.trace         where the time goes in a step

`--dry` goes the same way at two steps with the embedded models, on any machine; its figures mean nothing, and go into
FOLDER.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench import flags
from its_jax.errors import UserError
from its_jax.storage.files import read_json, write_json

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench" / "results" / "gpu.json"
COMPARED = "unet", "peer", "authors"
CODE = "denoise.py", "stages.py", "sampler.py", "layout.py"
# In a process of its own, which gives its memory back.
DEVICE = "import jax; print(jax.device_count(), 'x', jax.devices()[0].platform, jax.devices()[0].device_kind)"


class Setting(NamedTuple):
    """What is measured: full size, or the dry run."""

    config: str
    models: Path
    dtype: str
    steps: int
    batches: tuple[int, ...]
    unet_batches: tuple[int, ...]  # of full size in any case
    peer_batches: tuple[int, ...]
    peer_flags: tuple[str, ...]


class Goal(NamedTuple):
    name: str
    target: float
    found: float | None  # None: not measured


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scratch", type=Path, required=True, help="a folder with 10 GB of room")
    parser.add_argument("--out", type=Path, help=f"by default {OUT.relative_to(ROOT)}; of --dry: FOLDER/dry.json")
    parser.add_argument("--dry", action="store_true", help="all the way with the embedded models, on any machine")
    args = parser.parse_args()
    with flags.told(parser):
        out = args.out or (args.scratch / "dry.json" if args.dry else OUT)
        if args.dry and out.resolve() == OUT.resolve():
            raise UserError(f"--out={out}: is for figures of a GPU, not of --dry")
        flags.check_out(out)
        figures = measure(setting(args.scratch, args.dry), args.scratch, out, device(args.dry))
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
            unet_batches=(),
            peer_batches=(1,),
            peer_flags=("--rounds=1", "--forms=eager", "--skip_memory"),
        )
    return Setting(
        config="configs/sd15_auffusion.py",
        models=scratch / "models",
        dtype="bfloat16",
        steps=100,
        batches=(1, 2, 4, 8, 16, 32),
        unet_batches=(1, 8),
        peer_batches=(1, 8),
        peer_flags=("--rounds=3", "--skip_memory"),
    )


def device(dry: bool) -> str:
    """Number, platform and name of the devices. `UserError`: JAX finds none, or no GPU and that is not a dry run."""
    run = subprocess.run([sys.executable, "-c", DEVICE], capture_output=True, text=True)
    if run.returncode:
        raise UserError(f"JAX finds no device: {_last_line(run.stderr)}")
    found = _last_line(run.stdout)
    if not dry and found.split()[2] != "gpu":
        raise UserError(f"JAX finds {found}, no GPU; --dry goes all the way on any machine")
    return found


def kept(out: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """The pieces in `out`, if there are any. `UserError`: they are of another device or setting."""
    record = read_json(out) if out.exists() else {**about, "pieces": {}}
    for name, value in about.items():
        if record.get(name) != value:
            raise UserError(f"{out}: holds figures of {name} {record.get(name)}, not {value}; give another --out")
    return record["pieces"]


def version() -> str:
    """A hash of the files that say what a sampler computes."""
    files = sorted([*(ROOT / "its_jax" / "models").glob("*.py"), *(ROOT / "its_jax" / f for f in CODE)])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:10]


def measure(setting: Setting, scratch: Path, out: Path, device: str) -> dict[str, Any]:
    """Piece -> its figures, or its `fault`; those that `out` holds already are taken from there.

    Raises:
      UserError: `out` holds figures of another device or setting, or there are no models and none could be made.
    """
    about = {"device": device, "config": setting.config, "dtype": setting.dtype, "steps": setting.steps}
    about["code"] = version()
    figures = kept(out, about)
    environment = {**os.environ, "ITS_JAX_CACHE": str((scratch / "cache").absolute())}
    if not (setting.models / "audio" / "tokenizer" / "tokenizer_config.json").exists():  # which is written last
        if fault := _run(["bench.full_size", f"--out={setting.models}"], environment):
            raise UserError(f"bench.full_size: {fault}")
    for name, command in pieces(setting, figures):
        if "fault" not in figures.get(name, {"fault": "not measured"}):
            continue
        print(f"{name}: python -m {' '.join(command)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "out.json"
            fault = _run([*command, f"--out={made}"], environment)
            found = read_json(made) if made.exists() else {}
        figures[name] = found | ({"fault": fault} if fault else {})
        write_json(out, {**about, "pieces": figures})
    return figures


def pieces(setting: Setting, figures: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each; what comes next may depend on what has been found by then."""
    yield "attention", ["bench.attention"]
    config = ROOT / setting.config
    values = {f"{term}.model": setting.models / term for term in ("image", "audio")}
    values |= {"dtype": setting.dtype, "num_steps": setting.steps}
    values |= {"image.start_step": 0} if setting.steps < 10 else {}
    flags = [f"--config={config}", *(f"--config.{name}={value}" for name, value in values.items())]
    same = [f"--config={config}", f"--models={setting.models}", f"--dtype={setting.dtype}"]
    peer = [f"--steps={setting.steps}", *setting.peer_flags]
    of_unet = [f"--dtype={setting.dtype}", *setting.peer_flags]
    for b in setting.batches:
        if not any("fault" in of and of["batch_size"] < b for of in batches(figures)):  # memory has not ended yet
            yield f"benchmark, batch {b}", ["its_jax.benchmark", *flags, f"--batches={b}"]
        if b in setting.unet_batches:
            yield f"unet, batch {b}", ["bench.peer", "--parts=unet", f"--batch={b}", *of_unet]
        if b in setting.peer_batches:
            yield f"peer, batch {b}", ["bench.peer", "--parts=sample", f"--batch={b}", *same, *peer]
    best = best_batch(figures)
    for b in sorted({1, best or 1}):
        yield f"authors, batch {b}", ["bench.peer", "--parts=authors", f"--batch={b}", *same, *peer]
        yield f"trace, batch {b}", ["bench.trace", f"--batch={b}", *same, f"--steps={setting.steps}"]


def _run(command, environment):
    """Why a command failed, or nothing; what it writes goes to the terminal."""
    command = [sys.executable, "-m", *command]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as child:
        last = ""
        for line in child.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            last = line.strip() or last
    return f"exit status {child.returncode}: {last[:300]}" if child.returncode else ""


def _last_line(text):
    return (text.strip().splitlines() or [""])[-1]


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
    """What was asked for, and what was found; a comparison that failed counts for nothing: results may be wrong."""
    figures = {name: of for name, of in figures.items() if not ("fault" in of and name.startswith(COMPARED))}
    best = best_batch(figures) or "?"
    share = [of["stages"]["all"]["of_matrix_product"] for of in batches(figures) if of["batch_size"] == best]
    speedups = {name: _speedups(of) for name, of in figures.items()}
    compiled = {name: _over_compiled(of) for name, of in speedups.items() if name.startswith(("unet", "peer"))}
    compiled = {name: value for name, value in compiled.items() if value is not None}
    traces = [of for name, of in figures.items() if name.startswith("trace") and "program" in of]
    fused, talk = ([of["program"][key] for of in traces] for key in ("fused_attentions", "host_operations"))
    copies = f" (up to {max(of['transfers'] / of['steps'] for of in traces):.3g} a step)" if traces else ""
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
        Goal("fused attentions in the program", 1, min(fused, default=None)),
        Goal("of cuDNN's attentions, right", 1, _right(figures.get("attention", {}).get("attentions", {}))),
        Goal("of programs, without host operations in their text", 1, _share(of == 0 for of in talk)),
        Goal(f"of traced loops, without host copies{copies}", 1, _share(of["transfers"] == 0 for of in traces)),
    ]


def _speedups(of_piece):
    """Form of PyTorch -> its seconds / ours, from the one result of a run of `bench.peer`."""
    ratios = [result["ratio"] for result in of_piece.get("results", {}).values()]
    return {form: 1 / of["median"] for form, of in ratios[0].items()} if ratios else {}


def _over_compiled(speedups):
    """Over the fastest of PyTorch's compiled forms; None if none works."""
    return min((value for form, value in speedups.items() if form != "eager"), default=None)


def _right(attentions):
    return _share(of["agrees"] for of in attentions.values() if of["form"] == "cudnn")


def _share(holds):
    """Of what was found, that for which something holds; None if nothing was found."""
    holds = list(holds)
    return sum(holds) / len(holds) if holds else None


def table(rows: list[Goal]) -> Iterator[str]:
    yield f"{'goal':60} {'asked':>8} {'found':>8}"
    for goal in rows:
        if goal.found is None:
            yield f"{goal.name:60} {goal.target:8.4g} {'':>8} not measured"
        else:
            missed = "met" if goal.found >= goal.target else f"missed by {1 - goal.found / goal.target:.0%}"
            yield f"{goal.name:60} {goal.target:8.4g} {goal.found:8.3g} {missed}"


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
