"""Full-size programs for TPU chips that need not be present, built from shapes alone.

`AbstractPipeline` contains all uses of our pipeline's private parts in `bench/device`.
"""

import functools
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from bench.published import COMPONENTS, CONFIGS, SCHEDULER, read_config
from its_jax.checkpoints.model import Model
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.errors import UserError
from its_jax.models import backends, registry
from its_jax.pipeline import decoding, model_parallel, prompts, sampler
from its_jax.pipeline.placement import DataParallel

TOKENS = 77
# The part of a chip's memory that the runtime leaves to programs, according to its messages.
V5E, V6E = int(15.75 * 2**30), int(31.25 * 2**30)


class Slice(NamedTuple):
    """Chips that work together: their topology for `jax.experimental.topologies`, and the bytes of each."""

    topology: str
    options: Mapping[str, Any]
    hbm: int


SINGLE = {"chips_per_host_bounds": (1, 1, 1)}
SLICES = {
    "v5e-1": Slice("v5e:1x1", SINGLE, V5E),
    "v5e-4": Slice("v5e:2x2", {}, V5E),
    "v5e-8": Slice("v5e:2x4", {}, V5E),
    "v6e-1": Slice("v6e:1x1", SINGLE, V6E),
}


def describe_chips(chips: str) -> Sequence[Any]:
    """Returns the chips of a slice; raises UserError if no compiler for them is installed."""
    name, options, _ = SLICES[chips]
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{chips}: cannot compile for it here; is libtpu installed? ({reason})") from error


def place(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Returns the shapes of a tree with a sharding."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def bytes_per_device(tree: Any) -> int:
    """Returns the bytes that a tree of shapes with shardings takes on each device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in leaves)


class AbstractPipeline(sampler.Sampler):
    """A pipeline with shapes in place of weights, for devices that need not be present. It compiles but cannot run.

    Args of the constructor:
      hbm: bytes of each device. batch: samples on each group of `devices_per_sample` devices, or 0 to choose.
    """

    def __init__(self, job: Mapping[str, Any], devices: Sequence[Any], hbm: int, batch: int, devices_per_sample: int):
        self._all_devices, self.hbm = devices, hbm
        groups = len(devices) // devices_per_sample
        pending = sampler.MAX_BATCH_PER_DEVICE * groups
        super().__init__(job, pending=pending, batch_size=batch * groups, devices_per_sample=devices_per_sample)

    @property
    def samples_per_group(self) -> int:
        """Number of samples on each group of devices that compute a sample together."""
        return self.batch_size // self._devices

    def compiled(self) -> dict[str, jax.stages.Compiled]:
        """Returns all large programs, by stage."""
        return self.programs | {f"encode_{name}": program for name, program in self._encode.items()}

    def bytes_needed(self) -> dict[str, int]:
        """Returns the bytes on each device: of all UNets, of a batch, and of the texts of a batch."""
        texts = sum(join.memory_analysis().output_size_in_bytes for join in self._join.values())
        return {"unet_weights": bytes_per_device(self._unets), "batch": self._needed(), "texts": texts}

    def fits(self, total: int) -> bool:
        """Returns whether this many bytes fit on a device beside the cache of encoded prompts."""
        return total + sampler.TEXT_BYTES <= sampler.MEMORY_SHARE * self.hbm

    def _lay_out(self, job, devices_per_sample):
        if devices_per_sample > 1:
            return _TermParallel(len(COMPONENTS), devices_per_sample, self._all_devices)
        axis_types = (jax.sharding.AxisType.Auto,)
        return DataParallel(jax.sharding.Mesh(np.array(self._all_devices), ("data",), axis_types=axis_types))

    def _load(self, job):
        models = {term: self._abstract_model(number, term) for number, term in enumerate(COMPONENTS)}
        return models, decoding.mel_config(models["audio"].vocoder.config, job["height"])

    def _abstract_model(self, number, term):
        own, modules = self._layout.of_model([number]), {}
        for component, name in COMPONENTS[term].items():
            module = registry.abstract_module(component, read_config(name), self._dtype, name=name)
            backends.specialize(module, self._device, prepare=component == "unet")
            is_own = component in ("text_encoder", "unet")
            modules[component] = place(module, own if is_own else self._layout.replicated)
        tokenizer = types.SimpleNamespace(model_max_length=TOKENS)
        schedule = NoiseSchedule.from_dict(read_config(SCHEDULER))
        facts: dict[str, Any] = dict(folder=CONFIGS, identity="", hashes={}, tokenizer=tokenizer, schedule=schedule)
        return Model(source=term, **facts, **modules)

    def _prepare(self, model):
        prepare = functools.partial(prompts.prepare_unet, timesteps=model.schedule.num_train_timesteps)
        return place(jax.eval_shape(prepare, model.unet), self._of_source(model.source))

    def _free(self):
        modules = [self._unets, *((m.text_encoder, m.vae, m.vocoder) for m in self.models.values())]
        return sampler.MEMORY_SHARE * self.hbm - bytes_per_device(modules) - sampler.TEXT_BYTES

    def _put(self, tree, sharded=False):
        return place(tree, self._layout.sharded if sharded else self._layout.replicated)


class _TermParallel(model_parallel.TermParallel):
    """`TermParallel` on devices that need not be present."""

    def __init__(self, terms, devices_per_sample, devices):
        DataParallel.__init__(self, model_parallel.mesh(terms, devices_per_sample, devices))
        self.devices_per_sample = devices_per_sample


# Name of a pixel UNet -> number of images in the batch, their height and width. Each image takes two predictions.
PIXEL_UNETS = {"if_i_m.unet": (16, 64, 256), "if_ii_m.unet": (1, 256, 1024)}


def pixel_programs(device: Any, dtype: Any = jnp.bfloat16) -> Iterator[tuple[str, Callable, tuple[Any, ...]]]:
    """Yields name, function and shapes of arguments of DeepFloyd IF's modules.

    T5-XXL encodes a prompt and its negative prompt. The UNets predict a step at 256 x 1024 pixels: IF-I-M for 16 trials
    at a quarter of them, IF-II-M for one.
    """
    sharding = jax.sharding.SingleDeviceSharding(device)

    def abstract(component, name):
        module = registry.abstract_module(component, read_config(name), jnp.dtype(dtype), name=name)
        backends.specialize(module, device)
        return place(module, sharding)

    def shape(*sizes, dtype=np.float32):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

    encoder = abstract("text_encoder", "if.text_encoder")
    yield "t5_xxl", prompts.encode_tokens_for_pixels, (encoder, shape(2, TOKENS, dtype=np.int32))
    for name, (batch, height, width) in PIXEL_UNETS.items():
        unet, times = abstract("unet", name), shape(2 * batch, dtype=np.int32)
        text = shape(2 * batch, TOKENS, encoder.config.d_model)
        text = place(jax.eval_shape(lambda m, x: m.project_text(x), unet, text), sharding)
        level = (times,) if unet.enlarges else ()
        x = shape(2 * batch, height, width, unet.config.in_channels)
        yield name, lambda m, *inputs: m.predict(*inputs), (unet, x, times, text, *level)
