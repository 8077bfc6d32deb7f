"""Shared layers against PyTorch's."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from its_jax.models.layers import group_norm
from tests.helpers.torch_twins import normal


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("activation", ["none", "silu"])
def test_group_norm_equals_pytorch(activation, dtype):
    layer = group_norm(12, 3, 1e-5, dtype=jnp.dtype(dtype), param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.scale[...], layer.bias[...] = normal((12,), 1), normal((12,), 2)
    x = np.asarray(jnp.asarray(normal((2, 5, 7, 12)) + 300, dtype))  # far from 0, where the one-pass variance fails
    scale, bias = (torch.tensor(np.asarray(a[...])) for a in (layer.scale, layer.bias))
    expected = torch.tensor(np.asarray(x, np.float64)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.group_norm(expected, 3, scale.double(), bias.double(), 1e-5).permute(0, 2, 3, 1)
    found = layer(x) if activation == "none" else layer(x, nnx.silu)
    expected = expected if activation == "none" else torch.nn.functional.silu(expected)
    assert found.dtype == dtype
    atol = {"float32": 2e-4, "bfloat16": 2e-2}[dtype]  # the float32 spacing near 300 is 3e-5
    np.testing.assert_allclose(found.astype(jnp.float32), expected.numpy(), rtol=0, atol=atol)
