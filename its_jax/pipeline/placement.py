"""The placement of arrays in which every device holds all weights and generates its own samples.

`its_jax.pipeline.model_parallel` is the other placement, with the same methods: several devices share one sample.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from its_jax.diffusion import denoise, feature_cache


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the devices, by default the local ones, along one axis, `data`."""
    devices = jax.local_devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


class DataParallel:
    """A placement in which each device generates its own samples.

    Attributes:
      devices_per_sample: 1.
      mesh: devices along the axis `data`, over which the samples of a batch are divided.
      at_once: the number of samples that the devices generate at once; a batch is a multiple of it.
      replicated, sharded: shardings of arrays that all devices hold, and of arrays that are divided by samples.
    """

    devices_per_sample = 1

    def __init__(self, mesh: Mesh | None = None):
        self.mesh = data_mesh() if mesh is None else mesh
        self.at_once = self.mesh.shape["data"]
        self.replicated, self.sharded = NamedSharding(self.mesh, P()), NamedSharding(self.mesh, P("data"))

    @property
    def device(self) -> jax.Device:
        """Returns the first device; all are of one kind."""
        return self.mesh.devices.flat[0]

    def put(self, tree: Any, sharded: bool = False) -> Any:
        """Copies a pytree to the devices, to all of them or divided by samples."""
        return jax.device_put(tree, self.sharded if sharded else self.replicated)

    def abstract(self, shape: Sequence[int], dtype: Any = jnp.float32, sharding: Any = None) -> Any:
        """Returns the `jax.ShapeDtypeStruct` of an array, by default divided by samples."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding or self.sharded)

    def abstract_like(self, tree: Any, sharding: Any = None) -> Any:
        """Returns the shapes of a pytree's leaves with a sharding, by default divided by samples."""
        return jax.tree.map(lambda a: self.abstract(a.shape, a.dtype, sharding), tree)

    def model_sharding(self, terms: Sequence[int]) -> NamedSharding:
        """Returns the sharding of the text encoder and UNet that these terms use."""
        return self.replicated

    def prompt_sharding(self, term: int) -> NamedSharding:
        """Returns the sharding of one encoded prompt of a term."""
        return self.replicated

    def texts_sharding(self, term: int) -> NamedSharding:
        """Returns the sharding of a term's encoded prompts of a whole batch."""
        return self.sharded

    def check(self, models: Mapping[str, Any]) -> None:
        """Raises `UserError` if the models (`its_jax.checkpoints.model.Model` by term) cannot be placed like this."""

    def prompts(self, prompts: Sequence[str]) -> Sequence[str]:
        """Selects which of a term's negative and positive prompts are encoded."""
        return prompts

    def models(self, models: Sequence[Any]) -> Any:
        """Converts one UNet per term into the models argument of the denoising program."""
        return tuple(models)

    def terms(self, terms: Iterable[denoise.Term]) -> Any:
        """Converts one `Term` per term into the terms argument of the denoising program."""
        return tuple(terms)

    def jit_join(self, function: Callable, term: int) -> jax.stages.Wrapped:
        """Jits a function that stacks a term's encoded prompts into a batch."""
        return jax.jit(function, out_shardings=self.texts_sharding(term))

    def jit_empty_caches(self, terms: Any) -> jax.stages.Wrapped:
        """Jits `feature_cache.empty_caches`."""
        return jax.jit(feature_cache.empty_caches, out_shardings=self.sharded)

    def lower_denoise(self, *args: Any) -> jax.stages.Lowered:
        """Lowers `denoise.denoise` for the shapes of its arguments."""
        whole: Any = P()
        split: Any = P("data")
        in_specs = (whole, split, whole, whole, split, whole, whole, split)
        return self.jit_per_device(denoise.denoise, in_specs).lower(*args)

    def jit_per_device(self, function: Callable, in_specs: Any) -> jax.stages.Wrapped:
        """Jits a function that each device applies to its own samples.

        Without `shard_map`, XLA gathers the whole batch for FFTs and for loops over attention heads.
        """
        specs = dict(mesh=self.mesh, in_specs=in_specs, out_specs=P("data"))
        return jax.jit(jax.shard_map(function, check_vma=False, **specs))
