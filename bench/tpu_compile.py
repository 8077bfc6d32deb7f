"""The sampler's own programs at full size compiled for TPU chips, on a machine without any: memory, padding, work.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m bench.tpu_compile --chips=v5e-1 --batch=0

It takes `pip install -e ".[tpu]"`, and minutes for each size on 2 cores, most of an hour with `--effort=0`. The weights
are shapes alone. Sizes are bytes of one chip, as the compiler lays arrays out: in tiles, to which the last two axes are
filled up. `--batch=0` takes as many samples as `batch_size=0` chooses there. Nothing is timed this way. The exit status
is 1 where a program needs more memory than there is, has a collective, or works, but for the overlaps of `pieces.py`,
more or less than `WORK_OFF` from the count.
"""

import argparse
import collections
import functools
import itertools
import json
import math
import re
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench import flags, topology
from bench.about import about
from bench.pieces import overlaps
from bench.published import CONFIGS, PARTS, SCHEDULER, config
from configs import sd15_auffusion
from its_jax.benchmark.flops import count_flops
from its_jax.checkpoints.model import Model
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.errors import UserError
from its_jax.models import backends, registry
from its_jax.models.layers import attend
from its_jax.pipeline import decoding, prompts, sampler
from its_jax.pipeline.placement import DataParallel
from its_jax.settings.parse import read_settings
from its_jax.storage.files import read_json, write_json

TOKENS = 77
WORK_OFF = 0.03
# What the runtime leaves to programs of a chip's memory, as its messages have it.
V5E, V6E = int(15.75 * 2**30), int(31.25 * 2**30)


class Slice(NamedTuple):
    """Chips that work together: their topology, for `jax.experimental.topologies`, and bytes of each."""

    topology: str
    more: Mapping[str, Any]
    hbm: int


ALONE = {"chips_per_host_bounds": (1, 1, 1)}
SLICES = {
    "v5e-1": Slice("v5e:1x1", ALONE, V5E),
    "v5e-4": Slice("v5e:2x2", {}, V5E),
    "v5e-8": Slice("v5e:2x4", {}, V5E),
    "v6e-1": Slice("v6e:1x1", ALONE, V6E),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    chips = f"of {', '.join(SLICES)}, several with commas between"
    parser.add_argument("--chips", type=flags.names(SLICES), default="v5e-1", help=chips)
    each = "samples on each chip, several with commas between; 0: as many as batch_size=0 chooses"
    parser.add_argument("--batch", type=flags.counts, default="1,2,4,8,16,32", help=each)
    parser.add_argument("--out", type=Path, help="JSON file for the results; those of other sizes in it are kept")
    topology.add_effort(parser)
    args = parser.parse_args()
    with flags.told(parser):
        raise SystemExit(run(args))


def run(args):
    flags.check_out(args.out)
    topology.set_effort(args.effort)
    settings = read_settings(sd15_auffusion.get_config().to_dict())[0][0]
    results = read_json(args.out)["programs"] if args.out and args.out.exists() else {}
    missed = False
    for chips in args.chips:
        described(chips)  # where that cannot be, no size of batch is to blame
    for chips, b in itertools.product(args.chips, args.batch):
        name, found = f"{chips}, {b or 'batch_size=0'} on a chip", measured(settings, chips, b)
        results[name] = found | {"effort": args.effort} | {key: about()[key] for key in ("versions", "date")}
        print(f"{name}: {json.dumps(results[name])}", flush=True)
        if args.out:  # after each: a long run may be cut off
            record = {"what": __doc__.partition("\n")[0], "settings": settings.to_dict(), "programs": results}
            write_json(args.out, record | {"machine": about()["machine"]})
        for fault in faults(found):
            print(f"missed: {name}: {fault}", file=sys.stderr)
            missed = True
    return int(missed)


def faults(found):
    """What of `measured` is not as it ought to be, in words."""
    if "refused" in found:
        return [found["refused"]]
    ratio = found["programs"]["denoise"]["of_a_step"]["compiled_to_counted"]
    collectives = {
        name: program["collectives"] for name, program in found["programs"].items() if program["collectives"]
    }
    checks = {
        f"{found['total'] / 1e9:.2f} GB do not fit, {found['of_hbm']:.0%} of the memory": not found["fits"],
        f"exchanges data between chips: {collectives}": bool(collectives),
        f"the compiler counts {ratio} of the arithmetic in products": abs(ratio - 1) > WORK_OFF,
    }
    return [fault for fault, there in checks.items() if there]


def measured(settings, chips, b):
    start = time.perf_counter()
    try:
        found = figures(Outlined(settings, chips, b))
    except UserError as error:
        found = {"refused": f"{error}", "compiler": " ".join(str(error.__cause__).split())[:300]}
    return found | {"compile_seconds": round(time.perf_counter() - start)}


class Outlined(sampler.Sampler):
    """A sampler on chips that are not there, with shapes in place of weights: it compiles, and cannot run."""

    def __init__(self, settings, chips, on_each):
        self._topology, self.hbm = described(chips), SLICES[chips].hbm
        count = len(self._topology.devices)
        super().__init__(settings, pending=sampler.MAX_BATCH_PER_DEVICE * count, batch_size=on_each * count)

    def _lay_out(self, settings, devices_per_sample):
        axis_types = (jax.sharding.AxisType.Auto,)
        return DataParallel(jax.sharding.Mesh(np.array(self._topology.devices), ("data",), axis_types=axis_types))

    def _load(self, settings):
        models = {term: self._outlined(term) for term in PARTS}
        return models, decoding.mel_config(models["audio"].vocoder.config, settings.height)

    def _outlined(self, term):
        modules = {}
        for part, file in PARTS[term].items():
            modules[part] = self._put(registry.abstract_module(part, config(file), self._dtype, name=file))
            backends.specialize(modules[part], self._device)
        tokenizer = types.SimpleNamespace(model_max_length=TOKENS)
        schedule = NoiseSchedule.from_dict(config(SCHEDULER))
        about = dict(folder=CONFIGS, identity="", hashes={}, tokenizer=tokenizer, schedule=schedule)
        return Model(source=term, **about, **modules)

    def _prepared(self):
        def prepared(model):
            prepare = functools.partial(prompts.precompute_unet, timesteps=model.schedule.num_train_timesteps)
            return self._put(jax.eval_shape(prepare, model.unet))

        return tuple(map(prepared, self.models.values()))

    def _free(self):
        modules = [model.unet for model in self.models.values()]  # of which those are prepared that are held
        modules += [part for model in self.models.values() for part in (model.text_encoder, model.vae, model.vocoder)]
        held = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(modules))
        return sampler.MEMORY_SHARE * self.hbm - held - sampler.TEXT_BYTES

    def _put(self, tree, sharded=False):
        sharding = self._layout.sharded if sharded else self._layout.replicated
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def described(chips):
    return topology.described(SLICES[chips].topology, **SLICES[chips].more)


def figures(of: Outlined) -> dict:
    """What the compiled programs say."""
    programs = of.programs | {f"encode_{name}": program for name, program in of._encode.items()}
    results = {name: figures_of(program) for name, program in programs.items()}
    on_a_chip = of.batch_size // of._devices
    results["denoise"]["of_a_step"] = work(of, on_a_chip, of._denoise)
    texts = sum(join.memory_analysis().output_size_in_bytes for join in of._join.values())
    # Weights that two programs take count twice: it is a little more than is held.
    weights = sum(result["arguments"] for result in results.values()) - texts
    total = weights + of._needed()
    return {
        "weights": weights,
        "batch": of._needed(),
        "texts": texts,
        "total": total,
        "on_a_chip": on_a_chip,
        "of_hbm": round(total / of.hbm, 3),
        "fits": total + sampler.TEXT_BYTES <= sampler.MEMORY_SHARE * of.hbm,
        "programs": results,
    }


def figures_of(program):
    memory, text = program.memory_analysis(), program.as_text()
    written = buffers(text)
    logical, padded = (sum(buffer[key] for buffer in written) for key in ("logical", "padded"))
    waste = collections.Counter()
    for buffer in written:
        waste[buffer["shape"]] += buffer["padded"] - buffer["logical"]
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "collectives": sorted(set(re.findall(topology.COLLECTIVES, text))),
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "dense_scores": sorted({buffer["shape"] for buffer in written if buffer["dense"]}),
        "padded_to_logical": round(padded / max(logical, 1), 3),
        "most_padded_mb": {shape: round(bytes_ / 1e6, 1) for shape, bytes_ in waste.most_common(4) if bytes_ > 1e6},
    }


BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
ARRAY = re.compile(r" = (\w+)\[([\d,]+)\]\{([\d,]+):T\((\d+),(\d+)\)")


def buffers(text):
    """The arrays that instructions outside fusions write: logical and padded bytes."""
    fused, found = False, []
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            fused = line.startswith("%fused") or "fused_computation" in line.split("(")[0]
        match = None if fused else ARRAY.search(line)
        if match and match[1] in BYTES and not re.search(r"\} (parameter|get-tuple-element|bitcast)\(", line):
            dims, order = ([int(i) for i in match[i].split(",")] for i in (2, 3))
            tiles = [int(match[5]), int(match[4])]  # of the minor axis and of the one beside it
            laid = [dims[axis] for axis in order]
            padded = [-(-size // tile) * tile for size, tile in zip(laid, tiles, strict=False)] + laid[2:]
            size = BYTES[match[1]]
            found.append(
                {
                    "shape": f"{match[1]}[{match[2]}]",
                    "logical": math.prod(dims) * size,
                    "padded": math.prod(padded) * size,
                    "dense": sum(dim >= 4096 for dim in dims) > 1,
                }
            )
    return found


def work(of, b, program):
    """GFLOP of one step of all terms: products as counted without the zeros around pictures, which compilers leave out
    too; and what the compiler counts outside of kernels, of which the pieces' overlaps are no part of the method."""
    counted = {"all": 0, "outside_kernels": 0}
    h, w, c = of.latent_shape(of._job)
    for term in of.models:
        plain = registry.abstract_module("unet", config(PARTS[term]["unet"]), of._dtype, name=term)
        time = jax.eval_shape(lambda unet, t: unet.project_time(t), plain, jax.ShapeDtypeStruct((1,), jnp.int32))
        text = jax.ShapeDtypeStruct((2 * b, TOKENS, plain.config.cross_attention_dim), of._dtype)
        text = jax.eval_shape(lambda unet, text: unet.project_text(text), plain, text)
        x = jax.ShapeDtypeStruct((2 * b, h, w, c), jnp.float32)
        for what, form in (("all", attend), ("outside_kernels", without_kernels)):
            for _, layer in backends.nnx.iter_graph(plain):
                if isinstance(layer, backends.Attention):
                    layer.attend = form
            counted[what] += count_flops(lambda unet, *inputs: unet.predict(*inputs), plain, x, time, text, edges=False)
    compiled = program.cost_analysis()["flops"]
    twice = overlaps(program.as_text(), 2 * b, w // h)
    return {
        "gflop_counted": round(counted["all"] / 1e9, 1),
        "gflop_counted_outside_kernels": round(counted["outside_kernels"] / 1e9, 1),
        "gflop_compiled_outside_kernels": round(compiled / 1e9, 1),
        "gflop_of_overlaps": round(twice / 1e9, 1),
        "compiled_to_counted": round((compiled - twice) / counted["outside_kernels"], 3),
        "with_overlaps": round(compiled / counted["outside_kernels"], 3),
    }


def without_kernels(q, k, v):
    return q if min(q.shape[1], k.shape[1]) >= backends.SPLASH_TOKENS else attend(q, k, v)


if __name__ == "__main__":
    main()
