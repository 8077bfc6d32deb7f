"""Counts of floating-point operations, against figures worked out on paper and against XLA's own."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from its_jax.benchmark.flops import count_flops
from its_jax.models.state_dict import abstract_arrays
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from tests.helpers.torch_twins import read


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def xla_flops(function, *inputs):
    costs: Any = jax.jit(function).lower(*inputs).cost_analysis()
    return costs["flops"]


def product(a, b):
    return jnp.einsum("bij,bjk->bik", a, b)


def conv(x, kernel, **kw):
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (2, 1), "SAME", dimension_numbers=names, **kw)


@pytest.mark.parametrize(
    "function, arguments, expected",
    [
        (product, (shape(3, 4, 5), shape(3, 5, 6)), 2 * 3 * 4 * 5 * 6),
        (conv, (shape(2, 8, 6, 3), shape(3, 3, 3, 7)), 2 * (2 * 4 * 6 * 7) * (9 * 3)),
        (lambda a, b: jax.lax.map(lambda row: row @ b, a), (shape(5, 4, 3), shape(3, 2)), 5 * 2 * 4 * 3 * 2),
        (lambda a, b: jax.lax.cond(a.sum() > 0, lambda: a @ b @ b, lambda: a @ b), (shape(4, 4),) * 2, 2 * 2 * 64),
        (jax.jit(lambda a, b: jnp.tanh(a @ b).sum()), (shape(4, 4),) * 2, 2 * 64),
    ],
)
def test_products_of_matrices_and_convolutions_are_counted(function, arguments, expected):
    assert count_flops(function, *arguments) == expected


@pytest.mark.parametrize(
    "options",
    [
        dict(window_strides=(1, 1), padding="SAME"),
        dict(window_strides=(2, 1), padding=((1, 1), (0, 2))),
        dict(window_strides=(1, 1), padding=((2, 2), (2, 2)), rhs_dilation=(2, 2)),
        dict(window_strides=(1, 1), padding=((1, 2), (1, 2)), lhs_dilation=(2, 2)),
    ],
)
def test_without_padding_convolutions_count_as_in_xla(options):
    names = ("NHWC", "HWIO", "NHWC")
    function = lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, dimension_numbers=names, **options)  # noqa: E731
    inputs = shape(2, 8, 6, 3), shape(3, 3, 3, 7)
    assert count_flops(function, *inputs, count_padding=False) == xla_flops(function, *inputs)
    assert count_flops(function, *inputs, count_padding=False) < count_flops(function, *inputs)


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="iterations"):
        count_flops(lambda a: jax.lax.while_loop(lambda a: a.sum() < 9, lambda a: a @ a, a), shape(4, 4))


def test_xla_counts_little_more_than_the_products_of_a_unet():
    config = UNetConfig.from_dict(
        read("configs", "sd15.unet") | {"block_out_channels": [64, 64, 128, 128], "norm_num_groups": 8}
    )
    model = abstract_arrays(UNet2DConditionModel, config)
    inputs = shape(2, 16, 16, 4), jax.ShapeDtypeStruct((2,), jnp.int32), shape(2, 77, 768)

    def call(model, *inputs):
        return model(*inputs)

    counted = count_flops(call, model, *inputs)
    # XLA leaves out the products of a convolution with its padding, and counts what is not a product too.
    assert 0.9 * counted < xla_flops(call, model, *inputs) < 1.1 * counted
