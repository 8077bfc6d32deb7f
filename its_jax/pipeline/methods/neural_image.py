"""A gray image as a small network of its pixel coordinates."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from its_jax.models.layers import List

FEATURES, FEATURE_SCALE, WIDTH = 128, 10.0, 256
NORM_EPSILON = 1e-5  # PyTorch's default


class BatchNorm(nnx.Module):
    """Batch normalization over the pixels of the image itself, in training and afterwards."""

    def __init__(self, features: int):
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))

    def __call__(self, x: Array) -> Array:
        """Normalizes `[n, features]`."""
        mean = x.mean(axis=0)
        factor = lax.rsqrt(jnp.square(x - mean).mean(axis=0) + NORM_EPSILON) * self.scale[...]
        return (x - mean) * factor + self.bias[...]


class FourierImage(nnx.Module):
    """A network from Fourier features of pixels `[n, 2 * FEATURES]` to their brightness `[n]` in [0, 1].

    It is initialized as PyTorch initializes its layers.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        def linear(features_in, features_out):
            return nnx.Linear(features_in, features_out, kernel_init=_kernel, bias_init=_bias, rngs=rngs)

        self.convs = List([linear(2 * FEATURES, WIDTH), linear(WIDTH, WIDTH), linear(WIDTH, 1)])
        self.norms = List([BatchNorm(WIDTH) for _ in range(2)])

    def __call__(self, x: Array) -> Array:
        for conv, norm in zip(self.convs[:-1], self.norms, strict=True):
            x = norm(nnx.relu(conv(x)))
        return nnx.sigmoid(self.convs[-1](x))[:, 0]


_kernel = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # up to 1 / sqrt(inputs), with either sign


def _bias(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -(WIDTH**-0.5), WIDTH**-0.5)  # all layers have this many inputs


def render(network: FourierImage, frequencies: Array, height: int, width: int) -> Array:
    """Renders the gray image `[H, W]` in [0, 1] of a network (arXiv 2006.10739).

    Args:
      frequencies: of the Fourier features, `[2, FEATURES]`.
    """
    rows, columns = jnp.arange(height) / height, jnp.arange(width) / width
    places = jnp.stack(jnp.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    angles = 2 * jnp.pi * jnp.matmul(places, frequencies, precision=lax.Precision.HIGHEST)
    return network(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)).reshape(height, width)
