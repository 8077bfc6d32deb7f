"""The one weight rule is strict both ways, and loses nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from its_jax.config_fields import check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.layers import List
from its_jax.models.state_dict import abstract_arrays, load_state_dict, to_state_dict, torch_name, torch_shapes
from tests.helpers.torch_twins import normal


class Model(nnx.Module):
    """One of each kind of parameter, in square shapes where a wrong transposition would go unnoticed."""

    def __init__(self, *, param_dtype=jnp.float32, rngs):
        kw = dict(param_dtype=param_dtype, rngs=rngs)
        self.embed = nnx.Embed(3, 3, **kw)
        self.blocks = List(
            [
                nnx.Linear(3, 3, **kw),
                None,  # has no parameters, as dropout in PyTorch: it keeps its place
                nnx.Conv(2, 4, (3, 5), **kw),
                nnx.Conv(3, 2, (7,), use_bias=False, **kw),
                nnx.ConvTranspose(3, 2, (4,), transpose_kernel=True, **kw),
            ]
        )
        self.norm = nnx.LayerNorm(3, **kw)


SHAPES = {
    "embed.weight": (3, 3),
    "blocks.0.weight": (3, 3),
    "blocks.0.bias": (3,),
    "blocks.2.weight": (4, 2, 3, 5),
    "blocks.2.bias": (4,),
    "blocks.3.weight": (2, 3, 7),
    "blocks.4.weight": (3, 2, 4),  # PyTorch's transposed convolution: [in, out, *space]
    "blocks.4.bias": (2,),
    "norm.weight": (3,),
    "norm.bias": (3,),
}


def tensors(**changes):
    """A state dict that fits `Model`, with some tensors changed; None leaves one out."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    made = {key: normal(shape, seed) for seed, (key, shape) in enumerate(SHAPES.items())} | changes
    return {key: value for key, value in made.items() if value is not None}


def test_names_and_shapes_are_those_of_torch():
    assert torch_shapes(abstract_arrays(Model)) == SHAPES
    assert torch_name(("blocks", 0, "attn", "kernel")) == "blocks.0.attn.weight"


def test_abstract_holds_no_arrays():
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract_arrays(Model)))


def test_round_trip_is_exact():
    given = tensors()
    found = to_state_dict(load_state_dict(abstract_arrays(Model), given))
    assert found.keys() == given.keys()
    for key, value in given.items():
        np.testing.assert_array_equal(found[key], value)


def test_layouts():
    given = tensors()
    model = load_state_dict(abstract_arrays(Model), given)
    np.testing.assert_array_equal(model.blocks[0].kernel[...], given["blocks.0.weight"].T)
    np.testing.assert_array_equal(model.embed.embedding[...], given["embed.weight"])
    assert model.blocks[2].kernel.shape == (3, 5, 2, 4)


def test_a_concrete_module_is_not_changed():
    module = Model(rngs=nnx.Rngs(0))
    before = to_state_dict(module)
    load_state_dict(module, tensors())
    for key, value in to_state_dict(module).items():
        np.testing.assert_array_equal(value, before[key])


def test_tensors_are_read_one_by_one():
    """A lazy mapping is asked once for each tensor, and never for all."""
    given, asked = tensors(), []

    class Lazy(dict):
        def __getitem__(self, key):
            asked.append(key)
            return given[key]

    load_state_dict(abstract_arrays(Model), Lazy.fromkeys(given))
    assert sorted(asked) == sorted(given)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_weights_take_the_dtype_of_the_module(dtype):
    given = tensors()
    model = load_state_dict(abstract_arrays(Model, param_dtype=dtype), given)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(dtype)}
    for key, value in to_state_dict(model).items():
        np.testing.assert_array_equal(value, given[key].astype(dtype))


def test_weights_go_where_the_sharding_says():
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    model = load_state_dict(abstract_arrays(Model), tensors(), sharding=sharding)
    assert {leaf.sharding for leaf in jax.tree.leaves(model)} == {sharding}


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(norm__weight=None, norm__bias=None), r"tensor 'norm.bias' is missing \(2 missing"),
        (dict(norm__extra=np.zeros(3)), "tensor 'norm.extra' has no place"),
        (dict(blocks__3__bias=np.zeros(2)), "tensor 'blocks.3.bias' has no place"),
        (dict(blocks__0__bias=np.zeros(4)), r"tensor 'blocks.0.bias' has shape \[4\], .* asks for \[3\]"),
        (dict(blocks__2__weight=normal((4, 2, 5, 3))), r"'blocks.2.weight' has shape \[4, 2, 5, 3\]"),
        (dict(embed__weight=np.full((3, 3), np.nan)), "'embed.weight' holds values that are not finite"),
        (dict(blocks__4__bias=np.array([1, -np.inf])), "'blocks.4.bias' holds values that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(UserError, match=f"^the vocoder: .*{message}"):
        load_state_dict(abstract_arrays(Model), tensors(**changes), name="the vocoder")


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_value_beyond_the_dtype_is_named():
    with pytest.raises(UserError, match="'norm.bias' holds values that are not finite as float16"):
        load_state_dict(abstract_arrays(Model, param_dtype=jnp.float16), tensors(norm__bias=np.full(3, 1e6)))


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int
    scale: float = 1.0
    heads: int | tuple[int, ...] = 2
    dilations: tuple[tuple[int, ...], ...] = ()
    limit: float | None = None
    bias: bool = True


def test_fields_of_a_config():
    raw = dict(width=3, scale=2, heads=[1, 2], dilations=[[1, 3], [5]], limit=None, _version="0", seed=7, act="silu")
    sizes = read_fields(Sizes, raw, fixed={"act": ("silu",)}, ignored=("seed",))
    assert sizes == Sizes(width=3, scale=2, heads=(1, 2), dilations=((1, 3), (5,)))
    hash(sizes)


@pytest.mark.parametrize(
    "raw, message",
    [
        (dict(), "field 'width' is missing"),
        (dict(width=3, depth=4), "unknown field 'depth'"),
        (dict(width=3, act="gelu"), "act='gelu' is not supported, only 'silu'"),
        (dict(width="3"), "width='3' is not supported, only int"),
        (dict(width=None), "width=None"),
        (dict(width=True), "width=True"),
        (dict(width=3.0), "width=3.0"),
        (dict(width=[3]), "width="),
        (dict(width=3, scale="1"), "scale="),
        (dict(width=3, heads=[[1], [2]]), "heads="),
        (dict(width=3, heads=None), "heads=None"),
        (dict(width=3, dilations=[1, 3]), "dilations="),
        (dict(width=3, bias=1), "bias=1"),
    ],
)
def test_a_field_that_is_not_understood_is_named(raw, message):
    with pytest.raises(UserError, match=f"^Sizes: {message}"):
        read_fields(Sizes, raw, fixed={"act": ("silu",)})


@pytest.mark.parametrize("change", [dict(width=0), dict(width=-1), dict(heads=(2, 0)), dict(heads=())])
def test_sizes_are_positive(change):
    check_sizes(Sizes(width=1), "width", "heads")
    with pytest.raises(UserError, match=f"{next(iter(change))}=.* must be 1 or more"):
        check_sizes(Sizes(**{"width": 1, **change}), "width", "heads")
