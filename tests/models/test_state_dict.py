"""The naming rule between PyTorch and our modules is strict in both directions, and exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from its_jax.errors import UserError
from its_jax.models.layers import List
from its_jax.models.state_dict import abstract_arrays, load_state_dict, to_state_dict, torch_name, torch_shapes
from tests.helpers.torch_twins import normal


class Model(nnx.Module):
    """A module with every kind of parameter, square where only the values show a wrong transposition."""

    def __init__(self, *, param_dtype=jnp.float32, rngs):
        kw = dict(param_dtype=param_dtype, rngs=rngs)
        self.embed = nnx.Embed(3, 3, **kw)
        self.blocks = List(
            [
                nnx.Linear(3, 3, **kw),
                None,  # like dropout in PyTorch, which has no parameters but counts
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
    """Returns a state dict that fits `Model`, with some tensors replaced, or, by None, removed."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    made = {key: normal(shape, seed) for seed, (key, shape) in enumerate(SHAPES.items())} | changes
    return {key: value for key, value in made.items() if value is not None}


def test_names_and_shapes_equal_pytorch():
    assert torch_shapes(abstract_arrays(Model)) == SHAPES
    assert torch_name(("blocks", 0, "attn", "kernel")) == "blocks.0.attn.weight"


def test_an_abstract_module_holds_no_arrays():
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract_arrays(Model)))


def test_the_round_trip_is_exact():
    given = tensors()
    found = to_state_dict(load_state_dict(abstract_arrays(Model), given))
    assert found.keys() == given.keys()
    for key, value in given.items():
        np.testing.assert_array_equal(found[key], value)


def test_kernels_are_transposed():
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
    """A lazy mapping is read once per tensor, and never as a whole."""
    given, requested = tensors(), []

    class Lazy(dict):
        def __getitem__(self, key):
            requested.append(key)
            return given[key]

    load_state_dict(abstract_arrays(Model), Lazy.fromkeys(given))
    assert sorted(requested) == sorted(given)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_weights_get_the_dtype_of_the_module(dtype):
    given = tensors()
    model = load_state_dict(abstract_arrays(Model, param_dtype=dtype), given)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(dtype)}
    for key, value in to_state_dict(model).items():
        np.testing.assert_array_equal(value, given[key].astype(dtype))


def test_weights_get_the_requested_sharding():
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
def test_a_tensor_that_does_not_fit_is_reported(changes, message):
    with pytest.raises(UserError, match=f"^the vocoder: .*{message}"):
        load_state_dict(abstract_arrays(Model), tensors(**changes), name="the vocoder")


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_value_that_overflows_the_dtype_is_reported():
    with pytest.raises(UserError, match="'norm.bias' holds values that are not finite as float16"):
        load_state_dict(abstract_arrays(Model, param_dtype=jnp.float16), tensors(norm__bias=np.full(3, 1e6)))
