"""What one sample of full size asks of each chip when 1, 2 or 4 chips share it (`its_jax.pipeline.model_parallel`).

    python -m bench.spread --topology=v5e:2x2 --out=bench/results/spread_v5e.json

Compiles the denoising program of Stable Diffusion 1.5 and Auffusion at 256 x 1024 pixels in bfloat16, from shapes
alone, for chips that need not be there: `pip install "jax[tpu]"`, in a virtual environment of its own, brings the
compiler. Nothing is run or timed. It takes some minutes.
"""

import argparse
import json
import math
import os
import re
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bench import flags, topology
from bench.about import about
from bench.published import PARTS, config
from its_jax.diffusion import denoise
from its_jax.diffusion.solvers import SolverTable
from its_jax.models import backends
from its_jax.models.state_dict import abstract_arrays
from its_jax.models.unet import PrecomputedUNet, UNet2DConditionModel, UNetConfig
from its_jax.pipeline import model_parallel
from its_jax.pipeline.placement import DataParallel
from its_jax.storage.files import write_json

DTYPE, LATENT, TOKENS, TRAINING_STEPS = jnp.bfloat16, (32, 128, 4), 77, 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    topology.add_effort(parser)
    args = parser.parse_args()
    with flags.told(parser):
        run(args)


def run(args):
    flags.check_out(args.out)
    topology.set_effort(args.effort)
    devices = topology.described(args.topology).devices
    meshes = {n: model_parallel.mesh(2, n, devices) for n in (4, 2)} | {1: jax.sharding.Mesh(devices, ("data",))}
    outlines = {n: outline(mesh) for n, mesh in meshes.items()}
    results = {n: {"unet_weights_mb": weights_on_a_chip(models)} for n, (models, *_) in outlines.items()}
    for n, mesh in meshes.items():
        print(json.dumps(results), flush=True)
        results[n] |= figures(program(mesh, *outlines[n]))
        if args.out:  # after each: a long run may be cut off
            record = {"topology": args.topology, "effort": args.effort, "of each chip, by devices_per_sample": results}
            write_json(args.out, about() | record)
    print(json.dumps(results))


def weights_on_a_chip(models):
    leaves = jax.tree.leaves(models)
    return round(sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in leaves) / 1e6)


def figures(compiled):
    """Bytes on each chip, and the collectives of the program."""
    memory = compiled.memory_analysis()
    return {
        "arguments_mb": round(memory.argument_size_in_bytes / 1e6),
        "temporaries_mb": round(memory.temp_size_in_bytes / 1e6),
        "collectives": re.findall(rf"({topology.COLLECTIVES})(?:-start)?\(", compiled.as_text()),
    }


def outline(mesh):
    """Shapes of the models and of all else that `denoise` takes: a sample for each place of the mesh's axis `data`."""
    b = mesh.shape["data"]
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def shape(*shape, dtype=jnp.float32, sharding=split):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    configs = [UNetConfig.from_dict(config(parts["unet"])) for parts in PARTS.values()]
    unets = [abstract_arrays(UNet2DConditionModel, config, dtype=DTYPE, param_dtype=DTYPE) for config in configs]
    for unet in unets:
        backends.specialize(unet, mesh.devices.flat[0], prepare=True)
    times = jnp.arange(TRAINING_STEPS)
    models = [jax.eval_shape(lambda unet: PrecomputedUNet(unet, unet.project_time(times)), unet) for unet in unets]
    text = jax.ShapeDtypeStruct((2 * b, TOKENS, unets[0].config.cross_attention_dim), DTYPE)
    texts = jax.eval_shape(UNet2DConditionModel.project_text, unets[0], text)
    texts = jax.tree.map(lambda a: shape(b, 2, *a.shape[1:], dtype=a.dtype), texts)
    terms = [denoise.Term(texts, shape(b, TRAINING_STEPS), shape(b, TRAINING_STEPS))] * 2
    rows = [shape(TRAINING_STEPS, sharding=whole)] * 5
    rows = SolverTable(shape(TRAINING_STEPS, dtype=jnp.int32, sharding=whole), *rows)
    state = denoise.State(shape(b, *LATENT), shape(b, *LATENT), shape(b, dtype=jnp.int32))
    step = shape(dtype=jnp.int32, sharding=whole)
    rest = rows, shape(2, TRAINING_STEPS, dtype=jnp.int32, sharding=whole), state, step, step, None
    if "term" in mesh.axis_names:
        terms = model_parallel.Terms.of(terms, mesh)
        rest = *rest[:2], state._replace(caches=((),) * len(terms.distinct)), *rest[3:]
        return model_parallel.stack_shards(models, mesh, model_parallel.MODELS), terms, *rest
    return jax.tree.map(lambda a: shape(*a.shape, dtype=a.dtype, sharding=whole), models), terms, *rest


def program(mesh, *args):
    if "term" in mesh.axis_names:
        return model_parallel.lower(mesh, *args).compile()
    return DataParallel(mesh).lower(*args).compile()


if __name__ == "__main__":
    main()
