"""Where a sampler's arrays lie: here each device has all weights and makes samples of its own.

`its_jax.pipeline.model_parallel` has the other way, with the same methods: several devices make one sample together.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from its_jax.diffusion import denoise
from its_jax.diffusion.feature_cache import empty_caches


class DataParallel:
    """Each device its own samples.

    Attributes:
      devices_per_sample: 1. mesh: with an axis `data`, along which samples lie. at_once: how many that axis has.
      replicated, sharded: on all devices; and divided among them along the samples. program: what denoises.
    """

    devices_per_sample = 1
    program = staticmethod(denoise.denoise)

    def __init__(self, mesh: Mesh | None = None):
        self.mesh = data_mesh() if mesh is None else mesh
        self.at_once = self.mesh.shape["data"]
        self.replicated, self.sharded = NamedSharding(self.mesh, P()), NamedSharding(self.mesh, P("data"))

    def of_model(self, terms: Sequence[int]) -> NamedSharding:
        """Where text encoder and UNet of these terms lie."""
        return self.replicated

    def of_text(self, term: int) -> NamedSharding:
        """Where a text of a term lies."""
        return self.replicated

    def of_texts(self, term: int) -> NamedSharding:
        """Where a batch of them lies."""
        return self.sharded

    def check(self, models: Mapping[str, Any]) -> None:
        """Raises `UserError` for models (`its_jax.checkpoints.load.Model` by term) that cannot lie so."""

    def prompts(self, prompts: Sequence[str]) -> Sequence[str]:
        """Of a term's prompts those that are encoded."""
        return prompts

    def models(self, models: Sequence[Any]) -> Any:
        """One for each term -> what the program takes."""
        return tuple(models)

    def terms(self, terms: Sequence[denoise.Term]) -> Any:
        return tuple(terms)

    def join(self, function: Callable, term: int) -> Callable:
        """Jits what makes a batch of a term's texts."""
        return jax.jit(function, out_shardings=self.of_texts(term))

    def empty_caches(self, terms: Any) -> Callable:
        """Jits `denoise.empty_caches`."""
        return jax.jit(empty_caches, out_shardings=self.sharded)

    def lower(self, *args) -> jax.stages.Lowered:
        """The program that denoises, with all arguments of `denoise.denoise`."""
        whole, split = P(), P("data")
        known = whole if args[-1] is None else denoise.Known(whole, whole, split)
        in_specs = (whole, split, whole, whole, split, whole, whole, known)
        return self.each(self.program, in_specs).lower(*args)

    def each(self, function: Callable, in_specs: Any) -> Callable:
        """Jits what each device does with its own samples: left to itself, XLA gathers a batch for FFTs, and for loops
        over heads."""
        specs = dict(mesh=self.mesh, in_specs=in_specs, out_specs=P("data"))
        return jax.jit(jax.shard_map(function, check_vma=False, **specs))


def data_mesh():
    """The local devices along the one axis `data`."""
    devices = jax.local_devices()
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("data",), axis_types=axis_types, devices=devices)
