"""Peak host memory of converting and loading a model of Stable Diffusion 1.5's size, run by hand.

    python -m bench.memory --scratch=FOLDER

It takes about 10 minutes and 12 GB of disk in FOLDER, which is emptied at the end, and writes
`bench/results/memory.json`. The model is random; its tensors have the names and shapes of the published files, as
safetensors and as .bin (which Auffusion's are). Memory is that of one process, sampled every 20 ms: `anonymous` is
what the process holds of its own; `resident` counts the pages of mapped files too, which the system takes back when
it needs them. `baseline` is a process that does nothing but import what the others do.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

from bench import flags
from bench.about import about
from its_jax.storage.files import write_json

ROOT = pathlib.Path(__file__).parents[1]
OUT = ROOT / "bench" / "results" / "memory.json"
DATA = ROOT / "tests" / "data"
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
CONVERT_BOUND = 1.3  # of the largest file
LOAD_BOUND = 1.2  # of the model's size in the compute dtype


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=pathlib.Path, required=True, help="a new folder with 12 GB of room")
    scratch = parser.parse_args().scratch
    with flags.told(parser):
        flags.make_folder("--scratch", scratch, new=True)
        try:
            measure(scratch)
        finally:
            shutil.rmtree(scratch)
    print(f"wrote {OUT}")


def measure(scratch):
    results = {}
    for name, figures in measure_all(scratch):
        results[name] = figures  # written after each: a long run may be cut off
        write_json(OUT, {**about(), "megabytes": results})


def measure_all(scratch):
    """Name and figures, in megabytes (10^6 bytes) and seconds, one after the other."""
    for name in ("baseline", "baseline with torch"):
        yield name, run(name)
    model, out = scratch / "model", scratch / "converted"
    parameters = write_model(model)
    for kind in ("safetensors", "bin"):
        if kind == "bin":
            to_bin(model)
        largest = max(path.stat().st_size for path in model.rglob("*")) / 1e6
        figures = run("convert", model, out)
        yield f"convert {kind}", bounded(figures, largest_file=largest, bound=CONVERT_BOUND * largest)
        if kind == "bin":
            break
        for dtype, width in (("float32", 4), ("bfloat16", 2)):
            size = parameters * width / 1e6
            yield f"load {dtype}", bounded(run("load", out, dtype), model=size, bound=LOAD_BOUND * size)
        shutil.rmtree(out)


def bounded(figures, **sizes):
    figures = {**figures, **{name: round(value) for name, value in sizes.items()}}
    return {**figures, "holds": figures["anonymous"] <= figures["bound"]}


def write_model(folder):
    """A random model in diffusers' layout, one tensor in memory at a time; returns its number of parameters."""
    random, parameters = np.random.default_rng(0), 0
    for part, name in FILES.items():
        (folder / part).mkdir(parents=True)
        shutil.copy(DATA / "configs" / f"sd15.{part}.json", folder / part / "config.json")
        shapes = json.loads((DATA / "shapes" / f"sd15.{part}.json").read_text())
        parameters += write_safetensors(folder / part / name, shapes, random)
    (folder / "scheduler").mkdir()
    shutil.copy(DATA / "configs" / "sd15.scheduler.json", folder / "scheduler" / "scheduler_config.json")
    write_tokenizer(folder / "tokenizer")
    return parameters


def write_safetensors(path, shapes, random):
    """The format: the header's length in 8 bytes, the header in JSON, then the tensors' bytes."""
    sizes = {key: int(np.prod(shape)) for key, shape in shapes.items()}
    ends = dict(zip(sizes, np.cumsum(list(sizes.values())).tolist(), strict=True))
    header = {
        key: {"dtype": "F32", "shape": shape, "data_offsets": [4 * (ends[key] - sizes[key]), 4 * ends[key]]}
        for key, shape in shapes.items()
    }
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for size in sizes.values():
            file.write((0.02 * random.standard_normal(size, np.float32)).astype("<f4").tobytes())
    return sum(sizes.values())


def write_tokenizer(folder):
    folder.mkdir()
    tokens = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}')


def to_bin(folder):
    """Puts .bin files in place of the safetensors."""
    for part, name in FILES.items():
        path = folder / part / name
        stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
        run("to_bin", path, path.with_name(f"{stem}.bin"))
        path.unlink()


def run(name, *arguments):
    """Runs one of `PROGRAMS` in a process of its own and returns the peaks of its memory."""
    command = [sys.executable, "-c", PROGRAMS[name], *map(str, arguments)]
    start, anonymous, resident = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    while process.poll() is None:
        status = memory(process.pid)
        anonymous = max(anonymous, status.get("RssAnon", 0))
        resident = max(resident, status.get("VmHWM", 0))  # the system's own record, which misses no peak
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{name} failed with status {process.returncode}")
    seconds = round(time.perf_counter() - start, 1)
    figures = {"anonymous": round(anonymous / 1e6), "resident": round(resident / 1e6), "seconds": seconds}
    print(name, *arguments, figures, flush=True)
    return figures


def memory(pid):
    """Field of /proc/PID/status -> bytes; empty once the process has ended."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if words[-1] == "kB"}


if __name__ == "__main__":
    main()
