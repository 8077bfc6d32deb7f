"""Prints what the commands do, as plain text that two versions of the code can be compared by.

    python -m tests.freeze > before.txt

in one checkout, then the same in another on the same machine with the same packages, and `diff` shows what changed:
ids of samples, bits of latents, pictures and sounds, and the messages of wrong commands. It takes some ten minutes on 2
busy CPU cores; --only=ids, --only=samples or --only=mistakes prints one part.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

ROOT = Path(__file__).parents[1]
AT_ONCE = 2  # wrong commands, each in a process

# Config files, with their argument, and changes of their settings. TMP is a temporary folder.
CONFIGS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in ("default", "imprint", "imprint:tiger", "sds", "sds:bell", "views:square", "sweep")),
    *((name, {}) for name in ("views:upside_down", "comparison", "comparison:sds", "sd15_auffusion:bell")),
    *((f"sd15_auffusion:{name}", {}) for name in ("corgi", "garden-v2", "tiger", "tiger+fast")),
    ("default", {"method": "alternating", "image.turn": 2, "audio.turn": 3}),
    ("default", {"method": "image_only", "solver": "euler", "num_steps": 7}),
    ("default", {"method": "audio_only", "noise": "torch", "dtype": "bfloat16", "vocoder": "griffin_lim"}),
    ("default", {"width": 1024, "wrap": True, "window": 256, "seed": 2**32 - 4}),
    ("default", {"init_image": "TMP/start.png", "strength": 0.5, "keep": "0-1.5s, 200-800Hz"}),
    ("default", {"init_audio": "TMP/start.png", "strength": 0.25}),
    ("default", {"cache_interval": 2, "crop_image": True, "image.guidance_scale": 1, "audio.guidance_stop_step": 9}),
    ("default", {"cutoff_latent": True, "image.prompt": 'a "cat", 一座城堡 ß', "audio.prompt": "", "image.weight": 1}),
    ("imprint", {"image.num_steps": 10, "audio.num_steps": 30, "inverse_image": False, "mag_ratio": 0.25}),
    ("sds", {"learning_rate": 1e-3, "image.view": "rotate_90", "num_samples": 2}),
    ("views:upside_down", {"upside_down.view": "flip_vertical", "upside_down.stop_step": 20, "upside_down.turn": 2}),
    ("sweep", {"grid.seed": "3..9..3", "audio.negative_prompt": "noise", "prompts": "TMP/pairs.csv"}),
]

# Samples of the embedded models that are made: what they show, a config file, how many, their steps, and settings.
MADE = [
    ("fused", "default", 4, 4, ""),
    ("image only", "default", 4, 4, "method=image_only"),
    ("audio only", "default", 4, 4, "method=audio_only"),
    ("alternating", "default", 4, 4, "method=alternating"),
    ("imprint", "default", 4, 4, "method=imprint"),
    ("sds", "default", 4, 5, "method=sds"),
    ("windows in a loop", "default", 1, 4, "width=768 window=512 wrap=True"),
    ("noise of torch", "default", 1, 4, "noise=torch"),
    ("cached layers", "default", 1, 4, "cache_interval=2"),
    ("from a picture", "default", 1, 4, "init_image=TMP/start.pgm strength=0.5 keep=0-1s"),
    ("half precision, cropped", "default", 1, 4, "dtype=bfloat16 solver=euler crop_image=True vocoder=griffin_lim"),
    ("two pictures", "views", 1, 4, ""),
]

# Wrong commands, a line each. SAMPLE stands for a config and a work folder, MADE for the folder of the fused samples.
MISTAKES = (ROOT / "tests" / "freeze_mistakes.txt").read_text().splitlines()


def main():
    """Prints all parts, or the one that --only names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["ids", "samples", "mistakes"])
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory(prefix="freeze_") as folder:
        tmp = Path(folder).resolve()
        write_files(tmp)
        if only in (None, "ids"):
            print_ids(tmp)
        if only in (None, "samples"):
            print_samples(tmp)
        elif only == "mistakes":
            make(tmp, *MADE[0])
        if only in (None, "mistakes"):
            print_mistakes(tmp)


def write_files(tmp):
    """Writes the files that settings name; start.png is not an image, but its content is in an id."""
    (tmp / "start.png").write_text("no picture")
    (tmp / "start.pgm").write_text("P2 4 2 255 0 80 160 240 240 160 80 0\n")
    (tmp / "pairs.csv").write_text("image,audio.prompt\na painting of dogs,siren wailing\na fish,frog croaking\n")
    (tmp / "bad.csv").write_text("image,sound\na painting of dogs,siren wailing\n")
    (tmp / "typo.py").write_text("def get_config():\n    return x\n")
    (tmp / "other.json").write_text("{}")


def ids_of(settings):
    """Returns the ids of all samples of a config. No command prints them without making the samples, so this is the
    one place that imports a module of ours: a refactoring that moves it changes this function alone."""
    from its_jax.sweep import grid

    own = {name: settings.pop(name, usual) for name, usual in (("grid", {}), ("prompts", ""))}
    settings = {name: value for name, value in settings.items() if name not in ("layout", "scorers")}
    return list(grid.read_grid(settings, own["grid"], own["prompts"]))


def print_ids(tmp):
    """Prints for each config the number of its samples, the first one's id, and a digest of all ids."""
    for name, changes in CONFIGS:
        file, *argument = name.split(":")
        config = runpy.run_path(str(ROOT / "configs" / f"{file}.py"))["get_config"](*argument)
        config.update_from_flattened_dict(json.loads(json.dumps(changes).replace("TMP", str(tmp))))
        ids = ids_of(config.to_dict())
        what = " ".join(f"{key}={value!r}" for key, value in changes.items())
        print(f"id of {name} {what}: {len(ids)} samples, {ids[0]}, {digest_of(chr(10).join(ids).encode())}", flush=True)


def print_samples(tmp):
    """Prints for each made sample its id, and digests of its latents, record, pictures and sound."""
    for how in MADE:
        for folder in make(tmp, *how):
            record = json.loads((folder / "sample.json").read_text(encoding="utf-8").replace(str(tmp), "TMP"))
            del record["seconds"], record["versions"]
            print(f"sample, {how[0]}: {folder.name}\n  latents {record['run']['latents_sha256']}")
            print(f"  record {digest_of(json.dumps(record, sort_keys=True).encode())}")
            for file in sorted(folder.iterdir()):
                if file.suffix != ".json":
                    print(f"  {file.name} {content_digest(file)}", flush=True)


def make(tmp, name, config, samples, steps, settings):
    """Makes samples and returns their folders; programs that they share are compiled once."""
    workdir = tmp / re.sub(r"\W+", "_", name)
    changes = [f"--config.{change}" for change in f"video=False num_samples={samples} {settings}".split()]
    changes += [f"--config.batch_size={samples}", f"--config.num_steps={steps}"]
    line = shlex.join(["its_jax.sample", f"--config=configs/{config}.py", f"--workdir={workdir}", *changes])
    status, said = run(tmp, line)
    if status:
        print(f"sample, {name}: exit status {status}, {said[-1]}")
    return sorted(path.parent for path in workdir.glob("*/sample.json"))


def print_mistakes(tmp):
    """Prints for each wrong command its exit status, and the last line that it prints."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for line, (status, said) in zip(MISTAKES, pool.map(lambda line: run(tmp, line), MISTAKES), strict=True):
            print(f"mistake {line}\n  {status} {said[-1] if said else ''}", flush=True)


def run(tmp, line):
    """Runs a command; returns its exit status and lines of stdout, then stderr, without folders' names and times."""
    line = line.replace("SAMPLE", "--config=configs/default.py --workdir=TMP/out").replace("MADE", "TMP/fused")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "ITS_"))}
    environment |= {"ITS_JAX_CACHE": str(tmp / "cache"), "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *shlex.split(line.replace("TMP", str(tmp)))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    said = (done.stdout + done.stderr).replace(str(tmp), "TMP").replace(str(ROOT), "ROOT").strip()
    return done.returncode, [re.sub(r"^\d\d:\d\d:\d\d ", "", each) for each in said.splitlines()]


def content_digest(file):
    """Returns a digest of the pixels or samples in a file: the rest of it holds versions and seconds."""
    array = np.asarray(Image.open(file)) if file.suffix == ".png" else soundfile.read(file, dtype="int16")[0]
    return digest_of(f"{array.shape} {array.dtype} ".encode() + array.tobytes())


def digest_of(data):
    """Returns the sha256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main()
