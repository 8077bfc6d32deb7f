"""Measures the peak host memory of converting and loading a model of Stable Diffusion 1.5's size, and of shards.

    python -m bench.host.memory --scratch=FOLDER --out=bench/results/memory.json

The command takes about 12 minutes and 12 GB of disk in FOLDER, and removes its files at the end. The model is random.
Its tensors have the names and shapes of the published files, as safetensors and as .bin (the format of Auffusion's).
`shards` is a T5 encoder in float32, less wide than XXL's; XXL's shards are five times as large, and its largest tensor
is a smaller fraction of them. Memory is that of one process, sampled every 20 ms: `anonymous` is the process's own
memory; `resident` also counts the pages of mapped files, which the system reclaims when it needs them. `baseline` is a
process that only imports what the others do. `holds` says whether the bound on anonymous memory, for shards on resident
memory, holds; the exit status is 1 if one does not.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

from bench import command
from bench.published import CONFIGS, read_config
from its_jax.models import registry, state_dict
from its_jax.runtime import cli
from its_jax.storage.files import read_json

SHAPES = CONFIGS.with_name("shapes")
TOKENIZER = command.ROOT / "its_jax" / "tiny" / "weights" / "image" / "tokenizer"
FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
PROGRAMS = {
    "baseline": "import jax, its_jax.pretrained; jax.devices()",
    "baseline with torch": "import jax, its_jax.pretrained, torch; jax.devices()",
    "convert": "import sys; from convert import conversion; conversion.convert(sys.argv[1], sys.argv[2])",
    "load": (
        "import sys; from its_jax.pretrained import load_model\n"
        "model = load_model(sys.argv[1], components=('text_encoder', 'unet', 'vae'), dtype=sys.argv[2])"
    ),
    "to_bin": (
        "import sys, torch, safetensors.torch\ntorch.save(safetensors.torch.load_file(sys.argv[1]), sys.argv[2])"
    ),
}
CONVERT_BOUND = 1.3  # times the largest file
LOAD_BOUND = 1.2  # times the model's size in the compute dtype
SHARDED = dict(d_model=2048, d_ff=5120, num_heads=32, num_layers=20)  # T5 v1.1 XL's, except for the number of layers
SHARD = 2 * 10**9  # maximum bytes


def main():
    save = command.results_writer(flags.FLAGS.out)
    results: dict[str, Any] = {}
    with command.scratch_folder(flags.FLAGS.scratch) as scratch:
        for name, figures in measure(scratch):
            results[name] = figures
            save({"megabytes": results})
    if missed := [name for name, figures in results.items() if not figures.get("holds", True)]:
        raise SystemExit(f"above their bounds: {', '.join(missed)}")


def measure(scratch: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields names and figures in megabytes (10^6 bytes) and seconds, one after another."""
    for name in ("baseline", "baseline with torch"):
        yield name, run(name)
    model, out = scratch / "model", scratch / "converted"
    largest = max(write_shards(model)) / 1e6
    yield "convert shards", check_bound(run("convert", model, out), "resident", CONVERT_BOUND, largest_file=largest)
    shutil.rmtree(model)
    shutil.rmtree(out)
    parameters = write_model(model)
    for kind in ("safetensors", "bin"):
        if kind == "bin":
            convert_to_bin(model)
        largest = max(path.stat().st_size for path in model.rglob("*")) / 1e6
        figures = run("convert", model, out)
        yield f"convert {kind}", check_bound(figures, "anonymous", CONVERT_BOUND, largest_file=largest)
        if kind == "bin":
            break
        for dtype, width in (("float32", 4), ("bfloat16", 2)):
            figures = run("load", out, dtype)
            yield f"load {dtype}", check_bound(figures, "anonymous", LOAD_BOUND, model=parameters * width / 1e6)
        shutil.rmtree(out)


def check_bound(figures: Mapping[str, Any], kind: str, factor: float, **size: float) -> dict[str, Any]:
    """Returns the figures with the size in megabytes, the bound of `factor` times it, and whether the bound holds."""
    ((name, value),) = size.items()
    bound = round(factor * value)
    return {**figures, name: round(value), "bound": bound, "holds": figures[kind] <= bound}


def write_model(folder: pathlib.Path) -> int:
    """Writes a random model in diffusers' layout, one tensor in memory at a time; returns its number of parameters."""
    rng, size = np.random.default_rng(0), 0
    for part, name in FILES.items():
        (folder / part).mkdir(parents=True)
        shutil.copy(CONFIGS / f"sd15.{part}.json", folder / part / "config.json")
        size += write_safetensors(folder / part / name, read_json(SHAPES / f"sd15.{part}.json"), rng)
    (folder / "scheduler").mkdir()
    shutil.copy(CONFIGS / "sd15.scheduler.json", folder / "scheduler" / "scheduler_config.json")
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    return size // 4


def write_shards(folder: pathlib.Path) -> list[int]:
    """Writes a T5 encoder in shards, as transformers splits it, and returns their sizes in bytes."""
    raw = read_config("if.text_encoder") | SHARDED
    part, rng = folder / "text_encoder", np.random.default_rng(0)
    part.mkdir(parents=True)
    (part / "config.json").write_text(json.dumps(raw))
    module = registry.abstract_module("text_encoder", raw, jnp.dtype(jnp.float32), name="T5")
    shards: list[dict[str, Sequence[int]]] = [{}]
    for key, shape in state_dict.torch_shapes(module).items():
        if 4 * sum(int(np.prod(each)) for each in [*shards[-1].values(), shape]) > SHARD:
            shards.append({})
        shards[-1][key] = shape
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    (part / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return [write_safetensors(part / name, shard, rng) for name, shard in zip(names, shards, strict=True)]


def write_safetensors(path: pathlib.Path, shapes: Mapping[str, Sequence[int]], rng: np.random.Generator) -> int:
    """Writes random float32 tensors one at a time, and returns their bytes.

    The format is the header's length in 8 bytes, the header in JSON, then the tensors' bytes.
    """
    sizes = {key: 4 * int(np.prod(shape)) for key, shape in shapes.items()}
    ends = dict(zip(sizes, np.cumsum(list(sizes.values())).tolist(), strict=True))
    header = {
        key: {"dtype": "F32", "shape": list(shape), "data_offsets": [ends[key] - sizes[key], ends[key]]}
        for key, shape in shapes.items()
    }
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for size in sizes.values():
            file.write((0.02 * rng.standard_normal(size // 4, np.float32)).astype("<f4").tobytes())
    return sum(sizes.values())


def convert_to_bin(folder: pathlib.Path) -> None:
    """Replaces the safetensors files by .bin files."""
    for part, name in FILES.items():
        path = folder / part / name
        stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
        run("to_bin", path, path.with_name(f"{stem}.bin"))
        path.unlink()


def run(name: str, *arguments: Any) -> dict[str, Any]:
    """Runs one of `PROGRAMS` in a process of its own and returns its seconds and peak memory in megabytes."""
    process_arguments = [sys.executable, "-c", PROGRAMS[name], *map(str, arguments)]
    start, anonymous, resident = time.perf_counter(), 0, 0
    process = subprocess.Popen(process_arguments, cwd=command.ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    while process.poll() is None:
        status = read_status(process.pid)
        anonymous = max(anonymous, status.get("RssAnon", 0))
        resident = max(resident, status.get("VmHWM", 0))  # the system's own record, which misses no peak
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{name} failed with status {process.returncode}")
    seconds = round(time.perf_counter() - start, 1)
    figures = {"anonymous": round(anonymous / 1e6), "resident": round(resident / 1e6), "seconds": seconds}
    print(name, *arguments, figures, flush=True)
    return figures


def read_status(pid: int) -> dict[str, int]:
    """Returns the fields of /proc/PID/status in bytes, or nothing once the process has ended."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if words[-1:] == ["kB"]}


if __name__ == "__main__":
    flags.DEFINE_string("scratch", None, "Folder with 12 GB of space [the system's for temporary files].")
    flags.DEFINE_string("out", None, "JSON file for the results.")
    cli.run(main)
