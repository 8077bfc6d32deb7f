"""The selection of kernels by device, and the kernels for accelerators against the reference kernels."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo

from its_jax.models import backends, cpu_kernels
from its_jax.models.layers import Attention, Group, List, attend, conv3x3
from tests.helpers.torch_twins import jit, normal

AMPERE, HOPPER, BLACKWELL = "8.0", "9.0", "12.0"


def device(platform, capability=None):
    more = {} if capability is None else {"compute_capability": capability}
    return types.SimpleNamespace(platform=platform, **more)


@pytest.mark.parametrize(("heads", "features"), [(3, 40), (2, 80), (2, 160), (1, 512)])
def test_splash_attention_equals_the_reference(features, heads):
    q, k, v = (normal((2, n, heads, features), seed) for seed, n in enumerate((384, 256, 256)))
    kernel = functools.partial(backends.splash, interpret=True, block=128, min_tokens=256)
    assert "pallas_call" in str(jax.make_jaxpr(kernel)(q, k, v))
    kernel = jit(kernel)
    expected = attend(3 * q, k, v)  # far from uniform, so that a wrong scale would be noticed
    np.testing.assert_allclose(kernel(3 * q, k, v), expected, rtol=0, atol=2e-5)
    rounded = kernel(*(jnp.asarray(a, jnp.bfloat16) for a in (3 * q, k, v)))
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), expected, rtol=0, atol=4e-2)


@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        (backends.SPLASH_TOKENS, 77),
        (backends.SPLASH_TOKENS - 512, 1024),
        (backends.SPLASH_TOKENS + 8, backends.SPLASH_TOKENS),
    ],
)
def test_few_or_odd_tokens_use_reference_attention(queries, keys):
    q, k, v = (normal((1, n, 2, 8), seed) for seed, n in enumerate((queries, keys, keys)))
    assert "pallas_call" not in str(jax.make_jaxpr(backends.splash)(q, k, v))
    np.testing.assert_array_equal(backends.splash(q, k, v), attend(q, k, v))


@pytest.mark.parametrize(
    ("where", "dtype", "head", "kernel"),
    [
        (device("tpu"), "bfloat16", 40, backends.splash),
        (device("tpu"), "float32", 512, backends.splash),
        (device("gpu", AMPERE), "bfloat16", 40, backends.cudnn),
        (device("gpu", AMPERE), "float16", 128, backends.cudnn),
        (device("gpu", AMPERE), "bfloat16", 136, attend),
        (device("gpu", AMPERE), "bfloat16", 160, attend),
        (device("gpu", "8.9"), "bfloat16", 160, attend),
        (device("gpu", HOPPER), "bfloat16", 160, backends.cudnn),
        (device("gpu", HOPPER), "bfloat16", 256, backends.cudnn),
        (device("gpu", HOPPER), "bfloat16", 512, attend),
        (device("gpu", BLACKWELL), "bfloat16", 160, backends.cudnn),
        (device("gpu", HOPPER), "float32", 40, attend),
        (device("gpu", HOPPER), "bfloat16", 20, attend),
        (device("gpu", "7.5"), "float16", 40, attend),
        (device("gpu", "gfx942"), "bfloat16", 40, attend),
        (device("gpu"), "bfloat16", 40, attend),
        (device("metal"), "bfloat16", 40, attend),
    ],
)
def test_attention_is_selected_by_device_dtype_and_head(where, dtype, head, kernel):
    layer = Attention(2 * head, 2, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    layers = Group(one=layer, conv=conv3x3(8, 8, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)))
    backends.specialize(layers, where, prepare=True)
    assert layer.attend is kernel and type(layers.conv) is nnx.Conv


def test_cpus_use_the_cpu_kernels():
    layers = Group(one=Attention(512, 2, rngs=nnx.Rngs(0)), conv=conv3x3(256, 256, rngs=nnx.Rngs(0)))
    backends.specialize(layers, prepare=True)
    assert layers.one.attend is cpu_kernels.attend and isinstance(layers.conv, cpu_kernels.PreparedConv)


@pytest.mark.parametrize("where", [device("tpu"), device("gpu", HOPPER)])
def test_specialized_modules_share_a_compiled_program(where):
    traced = []

    @jax.jit
    def features(layer):
        traced.append(layer.to_q.kernel.shape)
        return layer.to_q.kernel[...]

    for seed in range(2):
        layer = Attention(16, 2, dtype=jnp.bfloat16, rngs=nnx.Rngs(seed))
        backends.specialize(layer, where)
        features(layer)
    assert len(traced) == 1


@pytest.mark.parametrize(("features", "keys"), [(40, 4096), (40, 77), (80, 1024)])
def test_cudnn_attention_lowers_for_cuda(features, keys, monkeypatch):
    """Only lowers the program, with a fake version of cuDNN, because there may be no GPU to run it."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    q, k = (jax.ShapeDtypeStruct((2, n, 8, features), jnp.bfloat16) for n in (4096, keys))
    lowered = jax.jit(backends.cudnn).trace(q, k, k).lower(lowering_platforms=("cuda",))
    assert "__cudnn$fmhaSoftmax" in lowered.as_text()
    assert lowered.out_info.shape == q.shape and lowered.out_info.dtype == jnp.bfloat16


@pytest.mark.parametrize("strides", [1, 2])
def test_convolutions_on_a_gpu_have_weights_in_the_order_of_cudnn(strides):
    conv = conv3x3(6, 10, strides=strides, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.asarray(normal((2, 8, 12, 6)), jnp.bfloat16)
    expected = conv(x)
    module = List([conv])
    for _ in range(2):  # as for a VAE that two models share
        backends.specialize(module, device("gpu", HOPPER))
    assert conv.kernel.shape == (10, 3, 3, 6)
    text = jax.jit(lambda conv, x: conv(x)).lower(conv, x).as_text()
    assert "[o, 0, 1, i]" in text and "transpose" not in text
    np.testing.assert_allclose(*(np.asarray(y, np.float32) for y in (conv(x), expected)), rtol=1e-2, atol=1e-2)


def test_other_convolutions_keep_the_order_of_their_weights():
    conv = conv3x3(6, 10, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    convolve = conv.conv_general_dilated
    backends.specialize(List([conv]), device("tpu"))
    assert conv.kernel.shape == (3, 3, 6, 10) and conv.conv_general_dilated is convolve
    narrow = nnx.Conv(6, 10, (3,), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    wide = conv3x3(6, 10, dtype=jnp.float32, rngs=nnx.Rngs(0))
    backends.specialize(List([narrow, wide]), device("gpu", HOPPER))
    assert narrow.kernel.shape == (3, 6, 10) and wide.kernel.shape == (3, 3, 6, 10)
