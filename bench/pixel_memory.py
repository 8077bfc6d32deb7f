"""What DeepFloyd IF's modules take of one TPU v5e (16 GB), as compiled for it: no TPU is needed.

    pip install "jax[tpu]"
    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m bench.pixel_memory --out=bench/results/pixel_memory.json

T5-XXL encodes a prompt and its negative one, once for each prompt, so that it need not be held beside the UNets. These
predict a step at 256 x 1024 pixels, IF-I-M of 16 trials at a quarter of them, IF-II-M of one; all in bfloat16, UNets
with the widths that are known of them (see bench/parity_pixel.py). On 2 cores it takes some minutes.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bench import flags, topology
from bench.about import about
from bench.published import config
from its_jax.models import backends, registry
from its_jax.pipeline import prompts
from its_jax.storage.files import write_json

HBM = int(15.75 * 2**30)  # of a v5e chip, what the runtime leaves to programs
CHIP = ("v5e:1x1", {"chips_per_host_bounds": (1, 1, 1)})
TOKENS, DTYPE = 77, jnp.bfloat16
# Name -> pictures in the batch, their height and width; for each of them two predictions.
UNETS = {"if_i_m.unet": (16, 64, 256), "if_ii_m.unet": (1, 256, 1024)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    topology.add_effort(parser)
    args = parser.parse_args()
    topology.set_effort(args.effort)
    with flags.told(parser):
        flags.check_out(args.out)
        name, more = CHIP
        (device,) = topology.described(name, **more).devices
    results = {}
    for name, program, arguments in programs(device):
        start = time.perf_counter()
        memory = jax.jit(program).lower(*arguments).compile().memory_analysis()
        sizes = {
            "arguments": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "results": memory.output_size_in_bytes,
        }
        total = sum(sizes.values())
        results[name] = sizes | {"total": total, "of_hbm": round(total / HBM, 3)}
        results[name]["compile_seconds"] = round(time.perf_counter() - start)
        print(f"{name}: {total / 1e9:.2f} GB, {total / HBM:.2f} of a chip's {HBM / 1e9:.1f} GB", flush=True)
    if args.out is not None:
        record = {"what": __doc__.partition("\n")[0], "hbm": HBM, "dtype": jnp.dtype(DTYPE).name, "programs": results}
        write_json(args.out, record | about())
    too_large = [name for name, of in results.items() if of["total"] > HBM]
    raise SystemExit(f"more than the chip has: {', '.join(too_large)}" if too_large else 0)


def programs(device):
    """Name, function and the shapes that it is given, of each."""
    sharding = jax.sharding.SingleDeviceSharding(device)

    def placed(tree):
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)

    def outline(part, name):
        module = registry.abstract_module(part, config(name), DTYPE, name=name)
        backends.specialize(module, device)
        return placed(module)

    def shape(*sizes, dtype=np.float32):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

    encoder = outline("text_encoder", "if.text_encoder")
    yield "t5_xxl", prompts.encode_tokens_for_pixels, (encoder, shape(2, TOKENS, dtype=np.int32))
    for name, (batch, height, width) in UNETS.items():
        unet, times = outline("unet", name), shape(2 * batch, dtype=np.int32)
        text = placed(
            jax.eval_shape(lambda m, x: m.project_text(x), unet, shape(2 * batch, TOKENS, encoder.config.d_model))
        )
        level = (times,) if unet.enlarges else ()
        x = shape(2 * batch, height, width, unet.config.in_channels)
        yield name, lambda m, *inputs: m.predict(*inputs), (unet, x, times, text, *level)


if __name__ == "__main__":
    main()
