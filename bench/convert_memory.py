"""How much memory the conversion of a model in shards takes: a T5 encoder, less wide than XXL's, in float32.

    python -m bench.convert_memory --out=bench/results/convert_memory.json

`python -m convert` reads shards of random values in a process of its own; its peak is what Linux counts as resident,
mapped files included. XXL's shards are five times as large, and its largest tensor is a smaller share of them. The exit
status is 1 if the peak is above 1.3 times the largest shard. It takes 9 GB of disk for a few minutes.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from bench import flags
from bench.about import about
from bench.published import config
from its_jax.models import registry, state_dict
from its_jax.storage.files import write_json

BOUND = 1.3
SIZES = dict(d_model=2048, d_ff=5120, num_heads=32, num_layers=20)  # T5 v1.1 XL's, but for the number of layers
SHARD = 2 * 10**9  # bytes at most
ROOT = Path(__file__).parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--folder", help="where the shards are made, and removed again [the system's for such files]")
    arguments = parser.parse_args()
    with flags.told(parser):
        flags.check_out(arguments.out)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        shards = write_model(Path(folder, "model"))
        start = time.perf_counter()
        command = [sys.executable, "-m", "convert", f"--source={folder}/model", f"--out={folder}/converted"]
        subprocess.run(command, cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    ratio = peak / max(shards)
    print(f"{len(shards)} shards of {max(shards) / 1e9:.2f} GB at most: peak {peak / 1e9:.2f} GB, {ratio:.2f} of one")
    if arguments.out is not None:
        record = {"what": __doc__.partition("\n")[0], "sizes": SIZES, "bound": BOUND, "shards_bytes": shards}
        record |= {"peak_bytes": peak, "peak_to_largest_shard": round(ratio, 3), "seconds": round(seconds)}
        write_json(arguments.out, record | about())
    raise SystemExit(0 if ratio <= BOUND else f"above {BOUND}")


def write_model(folder):
    """Writes an encoder in shards, as transformers cuts them, and returns their sizes."""
    raw = config("if.text_encoder") | SIZES
    (folder / "text_encoder").mkdir(parents=True)
    (folder / "text_encoder" / "config.json").write_text(json.dumps(raw))
    outline = registry.abstract_module("text_encoder", raw, jnp.float32, name="T5")
    shards = [[]]
    for key, shape in state_dict.torch_shapes(outline).items():
        if 4 * sum(int(np.prod(of)) for _, of in [*shards[-1], (key, shape)]) > SHARD:
            shards.append([])
        shards[-1].append((key, shape))
    places, sizes, rng = {}, [], np.random.default_rng(0)
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        file = folder / "text_encoder" / name
        save_file({key: rng.standard_normal(shape, np.float32) for key, shape in shard}, file)
        places |= {key: name for key, _ in shard}
        sizes.append(file.stat().st_size)
    (folder / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return sizes


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
