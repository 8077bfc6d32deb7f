"""One sample on several devices: each holds one term's model and computes its part of every step's noise.

    data   mesh axis along which samples are divided, as without model parallelism
    term   mesh axis with one place per term: its text encoder, UNet and texts are on these devices only
    cfg    mesh axis with one place, or two: one for a term's negative prompt and one for its positive prompt

One all-reduce of the latent's size adds the parts of a step. All else is computed where it is needed, so each device of
a sample computes the solver's step. The noise is the average of `diffusion.denoise`, with negative + s (positive -
negative) written as (1 - s) negative + s positive if the two are on different devices.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from its_jax.diffusion import denoise, feature_cache
from its_jax.errors import UserError
from its_jax.pipeline import placement

AXES = ("data", "term", "cfg")
# How arrays lie that `stack_shards` stacks along their first axis.
MODELS, TEXTS = P("term"), P(("term", "data"), "cfg")
WHOLE = P()


def term_mesh(terms: int, devices_per_sample: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the devices, by default the local ones, along `AXES`; `devices_per_sample` is not 1.

    Raises:
      UserError: this many devices cannot share a sample of this many terms, or the devices cannot be divided so.
    """
    devices = jax.local_devices() if devices is None else devices
    known = [n for n in (1, terms, 2 * terms) if len(devices) % n == 0]
    if devices_per_sample not in known:
        raise UserError(
            f"devices_per_sample={devices_per_sample}: must be 1, {terms} (one for each term) or {2 * terms} (two for "
            f"each term), and divide the number of devices, {len(devices)}: here {' or '.join(map(str, known))}"
        )
    shape = len(devices) // devices_per_sample, terms, devices_per_sample // terms
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def sub_mesh_sharding(whole: Mesh, terms: Sequence[int], spec: P = WHOLE) -> NamedSharding:
    """Returns a sharding on the devices of these terms only."""
    part = Mesh(whole.devices[:, list(terms)], AXES, axis_types=(AxisType.Auto,) * 3)
    return NamedSharding(part, spec)


def check_models(models: Mapping[str, Any]) -> None:
    """Raises `UserError` if the terms' models (`its_jax.checkpoints.model.Model`) cannot share one program."""
    (first, ours), *others = models.items()
    for name, model in others:
        if model.unet.config != ours.unet.config:
            raise UserError(
                f"devices_per_sample: the UNets of {first} and {name} differ in their configs, so that a sample of "
                "theirs must stay on one device; set it to 1"
            )
        lengths = [m.tokenizer.model_max_length for m in (ours, model)]
        if len(set(lengths)) > 1:
            raise UserError(
                f"devices_per_sample: {first} takes texts of {lengths[0]} tokens and {name} of {lengths[1]}, so that a "
                "sample of theirs must stay on one device; set it to 1"
            )


def stack_shards(trees: Sequence[Any], whole: Mesh, spec: P) -> Any:
    """Stacks one pytree per term along axis 0 into one pytree over the whole mesh; copies nothing.

    Args:
      trees: one per term, of equal structure and shapes, laid out on the term's devices as `spec` says. Shapes
        (`jax.ShapeDtypeStruct`) give shapes.
    """
    places = {device: term for (_, term, _), device in np.ndenumerate(whole.devices)}

    def stack(*leaves):
        shape = len(leaves) * leaves[0].shape[0], *leaves[0].shape[1:]
        sharding = NamedSharding(whole, spec)
        if isinstance(leaves[0], jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shape, leaves[0].dtype, sharding=sharding)
        shards = [{shard.device: shard.data for shard in leaf.addressable_shards} for leaf in leaves]
        on_devices = [shards[term][device] for device, term in places.items()]
        return jax.make_array_from_single_device_arrays(shape, sharding, on_devices)

    return jax.tree.map(stack, *trees)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Terms:
    """All terms of a batch, each a `denoise.Term` with guidance scales `[b steps]`, 1 where it is not guided."""

    each: tuple[denoise.Term, ...]  # without their texts
    texts: Any  # stacked, leaves [terms * b 2 ...]; holds the positive prompt twice for a term that is never guided

    @classmethod
    def stack(cls, terms: Sequence[denoise.Term], whole: Mesh) -> "Terms":
        """Stacks terms with two texts each, which lie on their own devices."""
        texts = stack_shards([term.texts for term in terms], whole, TEXTS)
        return cls(tuple(dataclasses.replace(term, texts=None) for term in terms), texts)

    @property
    def kinds(self) -> list[tuple[Any, ...]]:
        """Returns view, windows and modes of each term."""
        return [(term.view, term.windows, term.modes) for term in self.each]

    @property
    def distinct(self) -> list[denoise.Term]:
        """Returns one term of each kind, with the texts of all; the program has one branch per kind."""
        unused: Any = None
        return [denoise.Term(self.texts, unused, unused, *kind) for kind in dict.fromkeys(self.kinds)]


def fused_noise(
    model: Callable, x: Array, t: Array, terms: Terms, k: Array, selected: Array, caches: Sequence[Any]
) -> tuple[Array, tuple[Any, ...]]:
    """Computes `denoise.fused_noise` within `jax.shard_map` over `AXES`, each device with its own term's model.

    Args:
      caches: features of the inner layers, one per `terms.distinct`; a device uses that of its own term.
    """
    term, half = lax.axis_index("term"), lax.axis_index("cfg")
    weights = jnp.stack([each.weights[:, k] for each in terms.each])
    scale = jnp.stack([each.guidance_scale[:, k] for each in terms.each])[term]
    distinct, kinds = terms.distinct, list(dict.fromkeys(terms.kinds))
    modes = [(place, mode) for place, of_kind in enumerate(distinct) for mode in of_kind.modes]
    before = jnp.array([[place for place, _ in modes].index(kinds.index(kind)) for kind in terms.kinds])[term]
    taken, share = jnp.where(selected[term] > 0, before + selected[term], 0), jnp.ones_like(scale)
    if lax.axis_size("cfg") == 2:
        positive, guided = half == 1, jnp.array([False, *(mode.guided for _, mode in modes)])[taken]
        taken, share = jnp.where(positive | guided, taken, 0), jnp.where(positive, scale, 1 - scale)
    w = (weights[term] * share)[:, None, None, None]

    def part(place, mode, caches):
        own = dataclasses.replace(distinct[place], guidance_scale=scale)
        noise, cache = denoise.guided_noise(model, x, t, own, mode, k, caches[place])
        # A weight of zero times a non-finite noise would still spoil the sample.
        return jnp.where(w == 0, 0, w * noise), (*caches[:place], cache, *caches[place + 1 :])

    parts: list[Callable] = [lambda caches: (jnp.zeros_like(x), caches)]
    parts += [functools.partial(part, *mode) for mode in modes]
    total, caches = lax.switch(taken, parts, tuple(caches))
    return lax.psum(total, ("term", "cfg")) / weights.sum(axis=0)[:, None, None, None], caches


def jit_empty_caches(whole: Mesh, terms: Terms) -> jax.stages.Wrapped:
    """Jits `feature_cache.empty_caches` for each kind of term: `(models, terms, x)`, with models of `stack_shards`."""
    in_windows = P(TEXTS[0], None, *TEXTS[1:])
    specs = tuple((in_windows if term.windows else TEXTS) if term.uses_cache else () for term in terms.distinct)

    def empty_caches(model, terms, x):
        return feature_cache.empty_caches([model] * len(terms.distinct), terms.distinct, x)

    shardings = jax.tree.map(lambda spec: NamedSharding(whole, spec), specs)
    in_specs = MODELS, specs_of_arrays(terms), P("data")
    per_device = jax.shard_map(empty_caches, mesh=whole, in_specs=in_specs, out_specs=specs, check_vma=False)
    return jax.jit(per_device, out_shardings=shardings)


def lower_denoise(whole: Mesh, *args: Any) -> jax.stages.Lowered:
    """Lowers `denoise.denoise` with `fused_noise`, each argument laid out as it is.

    Args:
      args: the arguments of `denoise.denoise` in its order, or their shapes and shardings: UNets stacked as `MODELS`,
        `Terms` whose texts are stacked as `TEXTS`, and a state with the caches of `jit_empty_caches`.
    """
    specs = specs_of_arrays(args)
    run = functools.partial(denoise.denoise, fuse=fused_noise)
    run = jax.shard_map(run, mesh=whole, in_specs=specs, out_specs=specs[4], check_vma=False)
    return jax.jit(run).lower(*args)


def specs_of_arrays(tree: Any) -> Any:
    """Returns the partition specs of a pytree's leaves."""
    return jax.tree.map(lambda a: a.sharding.spec, tree)


class TermParallel(placement.DataParallel):
    """A placement in which a sample is shared by as many devices as it has terms, or twice as many."""

    def __init__(self, terms: int, devices_per_sample: int, devices: Sequence[jax.Device] | None = None):
        super().__init__(term_mesh(terms, devices_per_sample, devices))
        self.devices_per_sample = devices_per_sample

    def model_sharding(self, terms: Sequence[int]) -> NamedSharding:
        return sub_mesh_sharding(self.mesh, terms)

    def prompt_sharding(self, term: int) -> NamedSharding:
        return sub_mesh_sharding(self.mesh, [term])

    def texts_sharding(self, term: int) -> NamedSharding:
        return sub_mesh_sharding(self.mesh, [term], TEXTS)

    def check(self, models: Mapping[str, Any]) -> None:
        check_models(models)

    def prompts(self, prompts: Sequence[str]) -> Sequence[str]:
        """Returns two prompts for each term, because stacked terms must have equal shapes."""
        return [prompts[0], prompts[-1]]

    def models(self, models: Sequence[Any]) -> Any:
        return stack_shards(models, self.mesh, MODELS)

    def terms(self, terms: Iterable[denoise.Term]) -> Any:
        return Terms.stack(tuple(terms), self.mesh)

    def jit_join(self, function: Callable, term: int) -> jax.stages.Wrapped:
        """Jits a join that each device computes for all samples; XLA's own division would need communication."""
        whole = self.prompt_sharding(term)
        return jax.jit(
            lambda *args: lax.with_sharding_constraint(function(*args), whole), out_shardings=self.texts_sharding(term)
        )

    def jit_empty_caches(self, terms: Any) -> jax.stages.Wrapped:
        return jit_empty_caches(self.mesh, terms)

    def lower_denoise(self, *args: Any) -> jax.stages.Lowered:
        return lower_denoise(self.mesh, *args)


def choose_placement(
    terms: int, devices_per_sample: int = 1, devices: Sequence[jax.Device] | None = None
) -> placement.DataParallel:
    """Returns the placement for this many terms and devices per sample.

    Args:
      devices: the devices to use; by default the local ones.

    Raises:
      UserError: see `term_mesh`.
    """
    if devices_per_sample != 1:
        return TermParallel(terms, devices_per_sample, devices)
    return placement.DataParallel(None if devices is None else placement.data_mesh(devices))
