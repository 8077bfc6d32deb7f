"""The kernels for CPUs against the reference kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from its_jax.models import cpu_kernels
from its_jax.models.hifigan import Generator, VocoderConfig
from its_jax.models.layers import FeedForward, Group, attend, conv1x1, conv3x3
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from its_jax.models.vae import AutoencoderKL, VAEConfig
from tests.helpers import model_folder
from tests.helpers.compilation import few_optimizations
from tests.helpers.torch_twins import jit, loaded, normal

# (height, width), strides, padding
CANVASES = {
    "one block, odd": ((5, 7), 1, 1),
    "many pixels, odd, a last block that is not full": ((67, 33), 1, 1),
    "many pixels, whole blocks": ((64, 32), 1, 1),
    "strided": ((8, 12), 2, 1),
    "strided at the far edges": ((9, 12), 2, ((0, 1), (0, 1))),
    "one pixel": ((1, 1), 1, 1),
}
BOUND = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    with few_optimizations():
        yield


@pytest.fixture(autouse=True)
def include_narrow_layers(monkeypatch):
    # With BLOCK_CHANNELS=1, few channels make several blocks.
    set_limits(monkeypatch, WIDE=1, WIDE_UNPREPARED=1, BLOCK_CHANNELS=1)


def set_limits(monkeypatch, **limits):
    """Sets the sizes from which on kernels are used, so that small layers use them."""
    for name, value in limits.items():
        monkeypatch.setattr(cpu_kernels, name, value)


def test_narrow_layers_in_float32_are_not_changed(monkeypatch):
    set_limits(monkeypatch, WIDE=8)
    for dtype, prepared in (("float32", False), ("bfloat16", True)):
        layers = Group(
            narrow=conv3x3(8, 4, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)), wide=conv3x3(8, 9, rngs=nnx.Rngs(0))
        )
        cpu_kernels.use_cpu_kernels(layers, prepare=True)
        assert isinstance(layers.narrow, cpu_kernels.PreparedConv) == prepared and isinstance(
            layers.wide, cpu_kernels.PreparedConv
        )


def test_convolutions_that_are_not_prepared_must_be_wider(monkeypatch):
    set_limits(monkeypatch, WIDE_UNPREPARED=9)
    kw = dict(dtype=jnp.float32, rngs=nnx.Rngs(0))
    layers = Group(narrow=conv3x3(8, 9, **kw), wide=conv3x3(9, 9, **kw))
    cpu_kernels.use_cpu_kernels(layers)
    assert layers.wide.conv_general_dilated is cpu_kernels.conv_general_dilated
    assert layers.narrow.conv_general_dilated is not cpu_kernels.conv_general_dilated


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("name", CANVASES)
def test_convolutions_equal_the_reference(name, prepare, dtype):
    size, strides, padding = CANVASES[name]
    kw = dict(dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    layer = conv3x3(6, 10, strides=strides, padding=padding, **kw)
    x = normal((2, *size, 6))
    exact = nnx.Conv(6, 10, (3, 3), strides=strides, padding=padding, rngs=nnx.Rngs(0))
    exact.kernel[...] = layer.kernel[...].astype(jnp.float32)
    expected = exact(x)
    specialized = Group(layer=layer)
    cpu_kernels.use_cpu_kernels(specialized, prepare=prepare)
    assert isinstance(specialized.layer, cpu_kernels.PreparedConv) == (prepare and strides == 1)
    found = jax.jit(lambda specialized, x: specialized.layer(x))(specialized, x)
    assert found.dtype == dtype and found.shape == expected.shape
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected, rtol=0, atol=BOUND[dtype] * float(abs(expected).max())
    )


@pytest.mark.parametrize(("kernel", "dilation", "frames"), [(3, 1, 40), (7, 3, 2050), (11, 5, 3), (1, 1, 1030)])
def test_convolutions_over_time_equal_the_reference(kernel, dilation, frames, monkeypatch):
    set_limits(monkeypatch, TIME_CHANNELS=4)
    kw = dict(padding=dilation * (kernel // 2), kernel_dilation=dilation, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    layers = Group(
        conv=nnx.Conv(6, 5, (kernel,), dtype=jnp.bfloat16, **kw), narrow=nnx.Conv(3, 5, 3, dtype=jnp.bfloat16, **kw)
    )
    exact = nnx.Conv(6, 5, (kernel,), **kw)
    exact.kernel[...] = layers.conv.kernel[...].astype(jnp.float32)
    x = normal((2, frames, 6))
    expected = exact(x)
    cpu_kernels.use_cpu_kernels(layers)
    assert layers.conv.conv_general_dilated is cpu_kernels.conv_over_time
    assert layers.narrow.conv_general_dilated is not cpu_kernels.conv_over_time
    found = jax.jit(lambda layers, x: layers.conv(x))(layers, x)
    assert found.dtype == jnp.bfloat16 and found.shape == expected.shape
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected, rtol=0, atol=BOUND["bfloat16"] * float(abs(expected).max())
    )


def test_large_values_in_float16_do_not_overflow():
    layers = Group(conv=conv3x3(4, 4, dtype=jnp.float16, param_dtype=jnp.float16, rngs=nnx.Rngs(0), use_bias=False))
    layers.conv.kernel[...] = layers.conv.kernel[...] * 0.01
    expected = layers.conv(jnp.full((1, 8, 8, 4), 20000, jnp.float16))
    cpu_kernels.use_cpu_kernels(layers, prepare=True)
    found = layers.conv(jnp.full((1, 8, 8, 4), 20000, jnp.float16))
    assert isinstance(layers.conv, cpu_kernels.PreparedConv) and np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-3 * float(abs(expected).max()))


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("few", [0, 2**23], ids=["in chunks", "at once"])
@pytest.mark.parametrize(
    ("queries", "keys"), [(5, 7), (cpu_kernels.QUERY_CHUNK, 3), (2 * cpu_kernels.QUERY_CHUNK + 3, 9)]
)
def test_attention_equals_the_reference(queries, keys, few, dtype, monkeypatch):
    set_limits(monkeypatch, FEW_SCORES=few)
    q, k, v = (normal((2, n, 3, 8), seed) for seed, n in enumerate((queries, keys, keys)))
    expected = attend(q, k, v)
    found = jax.jit(cpu_kernels.attend)(*(jnp.asarray(a, dtype) for a in (q, k, v)))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0, atol=2 * BOUND[dtype])


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("tokens", [7, cpu_kernels.BLOCK_ROWS, cpu_kernels.BLOCK_ROWS // 2 + 9])
def test_feed_forward_equals_the_reference(tokens, dtype):
    layer = FeedForward(8, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    x = normal((2, tokens, 8)).astype(dtype)
    expected = layer(x).astype(jnp.float32)
    cpu_kernels.use_cpu_kernels(layer)
    found = jax.jit(lambda layer, x: layer(x))(layer, x)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected, rtol=0, atol=BOUND[dtype] * float(abs(expected).max())
    )


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("layer", [nnx.Linear, conv1x1])
def test_products_equal_the_reference(layer, dtype):
    plain = layer(64, 10, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    x = normal((2, 3, 4, 64))
    expected = jnp.einsum("...m,mn->...n", x, plain.kernel[...].astype(jnp.float32).reshape(64, 10))
    cpu_kernels.use_cpu_kernels(plain)
    found = jax.jit(lambda layer, x: layer(x))(plain, x)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected, rtol=0, atol=BOUND[dtype] * float(abs(expected).max())
    )


WHOLE = {
    "unet": (model_folder.small_unet, UNet2DConditionModel, UNetConfig),
    "vae": (model_folder.small_vae, AutoencoderKL, VAEConfig),
    "vocoder": (model_folder.small_vocoder, Generator, VocoderConfig),
}


def run_model(part, model):
    """Returns the output of a whole model for an input of its kind."""
    if part == "unet":
        text = normal((2, 7, model_folder.TEXT_WIDTH), 1)
        return jit(lambda model, *a: model(*a))(model, normal((2, 64, 66, 4)), np.array([500, 20]), text)
    if part == "vae":
        return jit(lambda model, z: model.decode(z))(model, normal((1, 34, 33, 4)))
    return jit(lambda model, mel: model(mel))(model, normal((2, 1030, 12)))


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", WHOLE)
def test_whole_models_equal_the_reference(part, dtype, monkeypatch, highest_precision):
    set_limits(monkeypatch, TIME_CHANNELS=4)
    make, module, config = WHOLE[part]
    twin = make()
    config = config.from_dict(model_folder.VOCODER if part == "vocoder" else dict(twin.config))
    expected = np.asarray(run_model(part, loaded(module, config, twin)))
    specialized = loaded(module, config, twin, jnp.dtype(dtype))
    cpu_kernels.use_cpu_kernels(specialized, prepare=part == "unet")
    found = np.asarray(run_model(part, specialized), np.float32)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < {"float32": 2e-5, "bfloat16": 4e-2}[dtype]
