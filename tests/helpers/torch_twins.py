"""Random PyTorch twins of our modules, filled through the production weight rule."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import torch

from its_jax.models.state_dict import abstract_arrays, load_state_dict, to_state_dict

TOLERANCE = 2e-5  # max abs difference in float32, of outputs of the order of 1

# These programs run once: compiling them with effort takes longer than all the rest.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def read(kind, name):
    """A file of published `configs` or `shapes`."""
    return json.loads((pathlib.Path(__file__).parents[1] / "data" / kind / f"{name}.json").read_text())


def loaded(cls, config, twin, dtype=jnp.float32):
    """Our module with the twin's weights."""
    model = abstract_arrays(cls, config, dtype=dtype, param_dtype=dtype)
    return load_state_dict(model, {k: v.numpy() for k, v in twin.state_dict().items()})


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_result(f, *arrays):
    """`f` of torch tensors, as numpy; pictures `[b, h, w, c]` are `[b, c, h, w]` within."""
    with torch.no_grad():
        y = f(*(torch.from_numpy(np.moveaxis(a, -1, 1).copy() if a.ndim == 4 else a) for a in arrays))
    return np.moveaxis(y.numpy(), 1, -1)


def assert_equal(found, expected):
    """Within the tolerance, where neither is degenerate."""
    assert found.dtype == jnp.float32 and found.shape == expected.shape
    assert 0.1 < expected.std() < 10
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def assert_close(found, expected, relative=0.03):
    """Of bfloat16 results: the relative error of the whole array."""
    assert found.dtype == jnp.bfloat16 and found.shape == expected.shape
    assert np.linalg.norm(np.asarray(found, np.float32) - expected) < relative * np.linalg.norm(expected)


def assert_rounded(module, twin):
    """All parameters are the twin's in bfloat16, rounded as PyTorch rounds."""
    found = to_state_dict(module)
    for key, weight in twin.state_dict().items():
        assert found[key].dtype == jnp.bfloat16
        np.testing.assert_array_equal(found[key].astype(np.float32), weight.bfloat16().float().numpy())
