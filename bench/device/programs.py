"""Full-size programs for TPU chips that need not be present, built from shapes alone.

They are compiled by the pipeline's own classes, whose arrays are replaced by shapes.
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
from its_jax.pipeline import batching, prompts
from its_jax.pipeline.components import Components
from its_jax.pipeline.model_parallel import TermParallel
from its_jax.pipeline.placement import DataParallel, data_mesh
from its_jax.pipeline.program import Program
from its_jax.pipeline.prompt_encoder import PromptEncoder
from its_jax.settings.schema import SampleSettings

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


class AbstractProgram:
    """The full-size stages compiled from shapes for devices that need not be present. They cannot run.

    Args of the constructor:
      batch: samples on each group of `devices_per_sample` devices, or 0 to choose.
    """

    def __init__(self, settings: SampleSettings, chips: str, batch: int, devices_per_sample: int):
        devices, self.hbm = describe_chips(chips), SLICES[chips].hbm
        groups = len(devices) // devices_per_sample
        placement: AbstractPlacement = AbstractPlacement(data_mesh(devices))
        if devices_per_sample > 1:
            placement = AbstractTermParallel(len(COMPONENTS), devices_per_sample, devices)
        self.components = AbstractComponents(placement, jnp.dtype(settings.dtype), self.hbm)
        pending = batching.MAX_BATCH_PER_DEVICE * groups
        self._program = Program(settings, self.components, pending=pending, batch_size=batch * groups)
        self.samples_per_group = self._program.batch_size // groups

    def compiled(self) -> dict[str, jax.stages.Compiled]:
        """Returns all large programs, by stage."""
        encoders = self.components.prompts.programs
        return {**self._program.programs, **{f"encode_{name}": program for name, program in encoders.items()}}

    def bytes_needed(self) -> dict[str, int]:
        """Returns the bytes on each device: of all UNets, of a batch, and of the texts of a batch."""
        joins: list[Any] = [program.memory_analysis() for program in self._program.stack_texts.programs.values()]
        texts = sum(join.output_size_in_bytes for join in joins)
        unets = bytes_per_device(self.components.unets)
        return {"unet_weights": unets, "batch": self._program.needed_bytes(), "texts": texts}

    def fits(self, total: int) -> bool:
        """Returns whether this many bytes fit on a device beside the cache of encoded prompts."""
        return total + self.components.prompts.device_bytes <= batching.MEMORY_SHARE * self.hbm


class AbstractPlacement(DataParallel):
    """A placement with shapes in place of arrays. `memory` is what its devices report."""

    memory: dict[str, int]

    @property
    def device(self) -> Any:
        return types.SimpleNamespace(platform="tpu", memory_stats=lambda: self.memory)

    def put(self, tree, sharded=False):
        return self.abstract_like(tree, self.sharded if sharded else self.replicated)


class AbstractTermParallel(AbstractPlacement, TermParallel):
    """The placement of several devices that share a sample, with shapes in place of arrays."""


class AbstractComponents(Components):
    """The full-size models as shapes."""

    def __init__(self, placement: AbstractPlacement, dtype: jnp.dtype, hbm: int):
        placement.memory = {"bytes_limit": hbm, "bytes_in_use": 0}
        models = {term: _abstract_model(placement, number, term, dtype) for number, term in enumerate(COMPONENTS)}
        self.models, self.placement = models, placement
        self.prompts = PromptEncoder(models, placement, {})
        unets = [_precompute_unet(model, self.prompts.sharding(term)) for term, model in models.items()]
        self.unet_list, self.unets = unets, placement.models(unets)
        self.vaes = tuple(model.vae for model in models.values())


def _abstract_model(placement, number, term, dtype):
    own, modules = placement.model_sharding([number]), {}
    for component, name in COMPONENTS[term].items():
        module = registry.abstract_module(component, read_config(name), dtype, name=name)
        backends.specialize(module, placement.mesh.devices.flat[0], prepare=component == "unet")
        modules[component] = place(module, own if component in ("text_encoder", "unet") else placement.replicated)
    placement.memory["bytes_in_use"] += bytes_per_device(modules)
    tokenizer = types.SimpleNamespace(model_max_length=TOKENS)
    schedule = NoiseSchedule.from_dict(read_config(SCHEDULER))
    return Model(term, CONFIGS, identity="", hashes={}, tokenizer=tokenizer, schedule=schedule, **modules)


def _precompute_unet(model, sharding):
    prepare = functools.partial(prompts.precompute_unet, timesteps=model.schedule.num_train_timesteps)
    return place(jax.eval_shape(prepare, model.unet), sharding)


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
        level = (times,) if unet.is_upscaler else ()
        x = shape(2 * batch, height, width, unet.config.in_channels)
        yield name, lambda m, *inputs: m.predict(*inputs), (unet, x, times, text, *level)
