"""Runs all measurements for one GPU. Finished measurements are kept and not repeated.

    python -m bench.device.gpu --scratch=FOLDER

FOLDER needs 10 GB for full-size models with random weights and their conversion. Each measurement is a process of its
own. Its figures are added to `bench/results/gpu.json` as soon as it ends, so that a failed measurement or a lost
machine costs nothing else, and the same command continues with what is missing. Figures of another device, setting or
version of the code are not overwritten: they need another `--out`. At the end the command reports which goals are met.

    bench.device.attention   whether cuDNN's attention agrees with the plain form
    its_jax.benchmark        seconds, arithmetic and memory of a sample at batch sizes 1 to 32, while memory suffices
    bench.peer               UNet and samples at batch sizes 1 and 8 against PyTorch's and against the authors' loop
    bench.device.trace       where the time of a step goes

`--dry` does the same with two steps of the embedded models on any machine. Its figures are meaningless and go into
FOLDER.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from bench.command import RESULTS, ROOT
from bench.device import gpu_goals
from its_jax.errors import UserError
from its_jax.runtime import cli
from its_jax.storage.files import read_json, write_json

OUT = RESULTS / "gpu.json"
CODE = "models", "diffusion", "pipeline"  # packages of its_jax that determine what is computed
# It runs in a process of its own, which frees the device's memory.
DEVICE = "import jax; print(jax.device_count(), 'x', jax.devices()[0].platform, jax.devices()[0].device_kind)"


class Setting(NamedTuple):
    """Settings of the measurements. `models` is relative to the scratch folder, and the UNet is always of full size."""

    config: str
    models: Path
    dtype: str
    steps: int
    batches: tuple[int, ...]
    unet_batches: tuple[int, ...]
    peer_batches: tuple[int, ...]
    peer_flags: tuple[str, ...] = ("--rounds=3", "--skip_memory")


FULL_SIZE = Setting("configs/sd15_auffusion.py", Path("models"), "bfloat16", 100, (1, 2, 4, 8, 16, 32), (1, 8), (1, 8))
EMBEDDED = ROOT / "its_jax" / "tiny" / "weights"
DRY_FLAGS = "--rounds=1", "--forms=eager", "--skip_memory"
DRY = Setting("configs/default.py", EMBEDDED, "float32", 2, (1, 2), (), (1,), DRY_FLAGS)


def main():
    args = flags.FLAGS
    scratch = Path(args.scratch)
    out = choose_output(scratch, args.out, args.dry)
    cli.check_out(out)
    figures = measure(DRY if args.dry else FULL_SIZE, scratch, out, find_device(args.dry))
    for line in gpu_goals.table(gpu_goals.goals(figures)):
        print(line)


def choose_output(scratch: Path, out: str | None, dry: bool) -> Path:
    """Returns the file for the figures; raises UserError if a dry run would overwrite those of a GPU."""
    path = Path(out) if out else scratch / "dry.json" if dry else OUT
    if dry and path.resolve() == OUT.resolve():
        raise UserError(f"--out={path}: contains figures of a GPU; choose another file for --dry")
    return path


def find_device(dry: bool) -> str:
    """Returns the number, platform and name of the devices; raises UserError without a GPU, unless in a dry run."""
    run = subprocess.run([sys.executable, "-c", DEVICE], capture_output=True, text=True)
    if run.returncode:
        raise UserError(f"JAX finds no device: {last_line(run.stderr)}")
    found = last_line(run.stdout)
    if not dry and found.split()[2] != "gpu":
        raise UserError(f"JAX finds {found}, not a GPU; --dry runs on any machine")
    return found


def run_module(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Runs `python -m MODULE` and returns why it failed, or an empty string. Its output goes to the terminal."""
    command = [sys.executable, "-m", module, *arguments]
    last = ""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as child:
        for line in child.stderr or ():
            print(line, end="", file=sys.stderr, flush=True)
            last = line.strip() or last
    return f"exit status {child.returncode}: {last[:300]}" if child.returncode else ""


def measure(setting: Setting, scratch: Path, out: Path, device: str, run: Callable = run_module) -> dict[str, Any]:
    """Returns measurements by name, each with its figures or its `fault`. Those that `out` contains are reused.

    Args:
      run: runs a module like `run_module`.

    Raises:
      UserError: `out` contains figures of another device or setting, or models are missing and cannot be written.
    """
    facts = {"device": device, "config": setting.config, "dtype": setting.dtype, "steps": setting.steps}
    facts["code"] = hash_code()
    figures, models = read_finished(out, facts), scratch / setting.models
    environment = {**os.environ, "ITS_JAX_CACHE": str((scratch / "cache").absolute())}
    if not (models / "audio" / "tokenizer" / "tokenizer_config.json").exists():  # it is written last
        if fault := run("bench.peer.random_models", f"--out={models}", environment=environment):
            raise UserError(f"bench.peer.random_models: {fault}")
    for name, command in measurements(setting, models, figures):
        if "fault" not in figures.get(name, {"fault": "not measured"}):
            continue
        print(f"{name}: python -m {' '.join(command)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "out.json"
            fault = run(*command, f"--out={written}", environment=environment)
            found = read_json(written) if written.exists() else {}
        figures[name] = found | ({"fault": fault} if fault else {})
        write_json(out, {**facts, "pieces": figures})
    return figures


def hash_code() -> str:
    """Returns a hash of the code that determines what is computed."""
    found = sorted(path for package in CODE for path in (ROOT / "its_jax" / package).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in found)).hexdigest()[:10]


def read_finished(out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the measurements in `out`, if any; raises UserError if they are of another device or setting."""
    record = read_json(out) if out.exists() else {**facts, "pieces": {}}
    for name, value in facts.items():
        if record.get(name) != value:
            raise UserError(f"{out}: contains figures of {name} {record.get(name)}, not {value}; use another --out")
    return record["pieces"]


def measurements(setting: Setting, models: Path, figures: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yields the name and command of each measurement. The next one may depend on the figures so far."""
    yield "attention", ["bench.device.attention"]
    config = ROOT / setting.config
    values: dict[str, Any] = {f"{term}.model": models / term for term in ("image", "audio")}
    values |= {"dtype": setting.dtype, "num_steps": setting.steps}
    values |= {"image.start_step": 0} if setting.steps < 10 else {}
    benchmark = [f"--config={config}", *(f"--config.{name}={value}" for name, value in values.items())]
    same = [f"--config={config}", f"--models={models}", f"--dtype={setting.dtype}"]
    peer = [f"--steps={setting.steps}", *setting.peer_flags]
    unet = [f"--dtype={setting.dtype}", *setting.peer_flags]
    for b in setting.batches:
        exhausted = ("fault" in batch and batch["batch_size"] < b for batch in gpu_goals.batches(figures))
        if not any(exhausted):
            yield f"benchmark, batch {b}", ["its_jax.benchmark", *benchmark, f"--batches={b}"]
        if b in setting.unet_batches:
            yield f"unet, batch {b}", ["bench.peer", "--parts=unet", f"--batch={b}", *unet]
        if b in setting.peer_batches:
            yield f"peer, batch {b}", ["bench.peer", "--parts=sample", f"--batch={b}", *same, *peer]
    for b in sorted({1, gpu_goals.best_batch(figures) or 1}):
        yield f"authors, batch {b}", ["bench.peer", "--parts=authors", f"--batch={b}", *same, *peer]
        yield f"trace, batch {b}", ["bench.device.trace", f"--batch={b}", *same, f"--steps={setting.steps}"]


def last_line(text):
    return (text.strip().splitlines() or [""])[-1]


if __name__ == "__main__":
    flags.DEFINE_string("scratch", None, "Folder with 10 GB of space.", required=True)
    flags.DEFINE_string("out", None, f"JSON file for the figures [{OUT.relative_to(ROOT)}; with --dry in --scratch].")
    flags.DEFINE_bool("dry", False, "Run everything with the embedded models, on any machine.")
    cli.run(main)
