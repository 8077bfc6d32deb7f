"""One sample on several devices: each holds one term's model, and makes its part of every step's noise.

    data   axis of the mesh along which samples lie, as they do without this
    term   one place for each term: its text encoder, UNet and texts are on these devices alone
    half   one place; or two, one for a term's negative text and one for its positive text

A step adds the parts up with one all-reduce of the latent's size; all else is computed where it is needed, the solver's
step on each device of a sample. Noise is the average of `its_jax.diffusion.denoise`, with negative + s (positive - negative)
written as (1 - s) negative + s positive where the two are on different devices.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
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

AXES = ("data", "term", "half")
# How arrays lie that are `joined` along their first axis.
MODELS, TEXTS = P("term"), P(("term", "data"), "half")
WHOLE = P()


def mesh(terms: int, devices_per_sample: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices, by default the local ones, along `AXES`; `devices_per_sample` above 1.

    Raises:
      UserError: so many devices cannot share a sample of so many terms, or the devices cannot be divided so.
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


def sub_mesh_sharding(whole: Mesh, places: Sequence[int], spec: P = WHOLE) -> NamedSharding:
    """On the devices of these terms alone."""
    part = Mesh(whole.devices[:, list(places)], AXES, axis_types=(AxisType.Auto,) * 3)
    return NamedSharding(part, spec)


def check_models(models: Mapping[str, Any]) -> None:
    """Raises `UserError` for terms whose models (`its_jax.checkpoints.load.Model` by term) cannot be one program's argument."""
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
    """One pytree of what lies on the devices of each term, in their order along axis 0; nothing is copied.

    Args:
      trees: one for each term, of equal structure and shapes, laid out on its devices as `spec` says; or shapes alone,
        which give shapes.
    """
    places = {device: term for (_, term, _), device in np.ndenumerate(whole.devices)}

    def join(*leaves):
        shape = len(leaves) * leaves[0].shape[0], *leaves[0].shape[1:]
        sharding = NamedSharding(whole, spec)
        if isinstance(leaves[0], jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shape, leaves[0].dtype, sharding=sharding)
        shards = [{shard.device: shard.data for shard in leaf.addressable_shards} for leaf in leaves]
        on_devices = [shards[term][device] for device, term in places.items()]
        return jax.make_array_from_single_device_arrays(shape, sharding, on_devices)

    return jax.tree.map(join, *trees)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Terms:
    """All terms, each an `its_jax.diffusion.denoise.Term` with guidance scales `[b steps]`, 1 where it is not guided."""

    each: tuple[denoise.Term, ...]  # without their texts
    texts: Any  # `joined`, leaves [terms * b 2 ...]; the positive one twice where a term is never guided

    @classmethod
    def of(cls, terms: Sequence[denoise.Term], whole: Mesh) -> "Terms":
        """From terms with two texts each, on their own devices."""
        texts = stack_shards([term.texts for term in terms], whole, TEXTS)
        return cls(tuple(dataclasses.replace(term, texts=None) for term in terms), texts)

    @property
    def kinds(self) -> list[tuple[Any, ...]]:
        """View, windows and ways of each term."""
        return [(term.view, term.windows, term.modes) for term in self.each]

    @property
    def distinct(self) -> list[denoise.Term]:
        """One term of each kind, with the texts of all; the program is made for kinds, of which there may be few."""
        return [denoise.Term(self.texts, None, None, *kind) for kind in dict.fromkeys(self.kinds)]


def fused_noise(
    model: Callable, x: Array, t: Array, terms: Terms, k: Array, chosen: Array, inner: Sequence[Any]
) -> tuple[Array, tuple[Any, ...]]:
    """`denoise.fused_noise` within `jax.shard_map` over `AXES`, where each device has the model of its own term.

    Args:
      inner: what the inner layers gave, one for each of `terms.distinct`, of which a device uses its own.
    """
    term, half = lax.axis_index("term"), lax.axis_index("half")
    weights = jnp.stack([each.weights[:, k] for each in terms.each])
    scale = jnp.stack([each.guidance_scale[:, k] for each in terms.each])[term]
    distinct, kinds = terms.distinct, list(dict.fromkeys(terms.kinds))
    ways = [(place, way) for place, of_kind in enumerate(distinct) for way in of_kind.modes]
    before = jnp.array([[place for place, _ in ways].index(kinds.index(kind)) for kind in terms.kinds])[term]
    taken, share = jnp.where(chosen[term] > 0, before + chosen[term], 0), jnp.ones_like(scale)
    if lax.axis_size("half") == 2:
        positive, guided = half == 1, jnp.array([False, *(way.guided for _, way in ways)])[taken]
        taken, share = jnp.where(positive | guided, taken, 0), jnp.where(positive, scale, 1 - scale)
    w = (weights[term] * share)[:, None, None, None]

    def part(place, way, inner):
        own = dataclasses.replace(distinct[place], guidance_scale=scale)
        noise, kept = denoise.guided_noise(model, x, t, own, way, k, inner[place])
        # A weight of zero times a non-finite noise would still spoil the sample.
        return jnp.where(w == 0, 0, w * noise), (*inner[:place], kept, *inner[place + 1 :])

    parts = [lambda inner: (jnp.zeros_like(x), inner), *(functools.partial(part, *way) for way in ways)]
    total, inner = lax.switch(taken, parts, tuple(inner))
    return lax.psum(total, ("term", "half")) / weights.sum(axis=0)[:, None, None, None], inner


def empty_caches(whole: Mesh, terms: Terms) -> Callable:
    """The jitted `denoise.empty_caches` of each kind of term, `(models, terms, x)`, with the models of `joined`."""
    in_windows = P(TEXTS[0], None, *TEXTS[1:])
    specs = tuple((in_windows if term.windows else TEXTS) if term.uses_cache else () for term in terms.distinct)

    def rooms(model, terms, x):
        return feature_cache.empty_caches([model] * len(terms.distinct), terms.distinct, x)

    places = jax.tree.map(lambda spec: NamedSharding(whole, spec), specs)
    in_specs = MODELS, specs_of(terms), P("data")
    rooms = jax.shard_map(rooms, mesh=whole, in_specs=in_specs, out_specs=specs, check_vma=False)
    return jax.jit(rooms, out_shardings=places)


def lower(whole: Mesh, *args) -> jax.stages.Lowered:
    """The program of `denoise.denoise` with `fused_noise`, each argument laid out as it is.

    Args:
      args: those of `denoise.denoise`, in its order, or their shapes and shardings: UNets `joined` as `MODELS`, `Terms`
        whose texts are `joined` as `TEXTS`, and a state with `inner` of `empty_caches`.
    """
    specs = specs_of(args)
    run = functools.partial(denoise.denoise, fuse=fused_noise)
    run = jax.shard_map(run, mesh=whole, in_specs=specs, out_specs=specs[4], check_vma=False)
    return jax.jit(run).lower(*args)


def specs_of(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.sharding.spec, tree)


class TermParallel(placement.DataParallel):
    """`its_jax.pipeline.placement.DataParallel` for several devices to a sample: as many as terms, or twice as many."""

    def __init__(self, terms: int, devices_per_sample: int):
        super().__init__(mesh(terms, devices_per_sample))
        self.devices_per_sample = devices_per_sample

    def of_model(self, terms):
        return sub_mesh_sharding(self.mesh, terms)

    def of_text(self, term):
        return sub_mesh_sharding(self.mesh, [term])

    def of_texts(self, term):
        return sub_mesh_sharding(self.mesh, [term], TEXTS)

    def check(self, models):
        check_models(models)

    def prompts(self, prompts):
        """Terms that are joined have as many texts each."""
        return [prompts[0], prompts[-1]]

    def models(self, models):
        return stack_shards(models, self.mesh, MODELS)

    def terms(self, terms):
        return Terms.of(tuple(terms), self.mesh)

    def join(self, function, term):
        """On each device for all samples: left to itself, XLA divides it in ways that take communication."""
        whole = self.of_text(term)
        return jax.jit(
            lambda *args: lax.with_sharding_constraint(function(*args), whole), out_shardings=self.of_texts(term)
        )

    def empty_caches(self, terms):
        return empty_caches(self.mesh, terms)

    def lower(self, *args):
        return lower(self.mesh, *args)
