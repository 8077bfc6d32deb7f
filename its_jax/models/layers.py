"""Layers that several models share. Arrays have channels last: images `[b, h, w, c]`, tokens `[b, n, d]`.

Every module takes `dtype` (of activations) and `param_dtype` (of weights). Attributes carry the names of the PyTorch
modules, so that `its_jax.models.state_dict` needs no table of names.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

# Longer query sequences are processed in chunks of this length, so that the score matrix stays small.
QUERY_CHUNK = 512
# A list of modules. Flax 0.11 has no class for it and takes plain lists.
List: Any = getattr(nnx, "List", list)
KeysValues = tuple[Array, Array]  # of one attention layer, [b, m, heads, d] each


class Group(nnx.Module):
    """Modules by name: `Group(a=module).a`."""

    def __init__(self, **modules: nnx.Module) -> None:
        for name, module in modules.items():
            setattr(self, name, module)


def conv3x3(features_in: int, features_out: int, *, strides: int = 1, padding: Any = 1, **kw: Any) -> nnx.Conv:
    """Returns a 3 x 3 convolution with PyTorch's padding, an integer for all four sides."""
    return nnx.Conv(features_in, features_out, (3, 3), strides=strides, padding=padding, **kw)


def conv1x1(features_in: int, features_out: int, **kw: Any) -> nnx.Conv:
    """Returns a 1 x 1 convolution."""
    return nnx.Conv(features_in, features_out, (1, 1), padding="VALID", **kw)


class GroupNorm(nnx.GroupNorm):
    """Group normalization with float32 statistics.

    Means are taken over the pixels first and then over the channels of each group, which is twice as fast on a CPU. The
    variance is computed in two passes, because the one-pass formula loses digits where |mean| is far above the
    deviation.
    """

    def __call__(self, x: Array, activation: Callable[[Array], Array] = lambda x: x) -> Array:  # type: ignore[override]
        """Normalizes `[b, h, w, c]` and applies `activation` to the float32 result, before it is rounded."""

        def group_means(x):
            means = x.mean(axis=(1, 2)).reshape(len(x), self.num_groups, -1).mean(axis=-1)
            return jnp.repeat(means, self.group_size, axis=-1)[:, None, None]

        assert self.scale is not None and self.bias is not None
        x = x.astype(jnp.float32)
        mean = group_means(x)
        factor = jax.lax.rsqrt(group_means(jnp.square(x - mean)) + self.epsilon) * self.scale[...].astype(jnp.float32)
        # Not (x - mean) * factor, because XLA would keep x - mean in memory.
        shift = self.bias[...].astype(jnp.float32) - mean * factor
        return activation(x * factor + shift).astype(self.dtype)


def group_norm(features: int, groups: int, epsilon: float, **kw: Any) -> GroupNorm:
    """Returns a group normalization."""
    return GroupNorm(features, num_groups=groups, epsilon=epsilon, **kw)


def layer_norm(features: int, epsilon: float, **kw: Any) -> nnx.LayerNorm:
    """Returns a layer normalization whose variance is computed in two passes."""
    return nnx.LayerNorm(features, epsilon=epsilon, use_fast_variance=False, **kw)


def normalize(x: Array) -> Array:
    """Scales vectors along the last axis to length 1, in float32."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def attend(q: Array, k: Array, v: Array) -> Array:
    """Computes softmax attention with float32 scores.

    Args:
      q: `[b, n, heads, d]`.
      k, v: `[b, m, heads, d]`.

    Returns:
      `[b, n, heads, d]` in q's dtype.
    """
    b, n, *heads = q.shape
    if n <= QUERY_CHUNK:
        return _attend_dense(q, k, v)
    padded = jnp.pad(q, ((0, 0), (0, -n % QUERY_CHUNK), (0, 0), (0, 0)))
    chunks = jnp.moveaxis(padded.reshape(b, -1, QUERY_CHUNK, *heads), 1, 0)
    out = jax.lax.map(lambda chunk: _attend_dense(chunk, k, v), chunks)
    return jnp.moveaxis(out, 0, 1).reshape(padded.shape)[:, :n]


def _attend_dense(q, k, v):
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    # Heads come first in the result, because jaxlib 0.7 has no bfloat16 product of the other order on CPUs.
    out = jnp.einsum("bhnm,bmhd->bhnd", weights, v, preferred_element_type=jnp.float32)
    return jnp.moveaxis(out, 1, 2).astype(q.dtype)


class Attention(nnx.Module):
    """Multi-head attention of tokens `[b, n, features]` to `[b, m, context_features]`, or to themselves."""

    def __init__(
        self,
        features: int,
        heads: int,
        *,
        context_features: int | None = None,
        qkv_bias: bool = False,
        rngs: nnx.Rngs,
        **kw: Any,
    ) -> None:
        linear: Callable[..., nnx.Linear] = functools.partial(nnx.Linear, rngs=rngs, **kw)
        context_features = context_features or features
        self.heads = heads
        self.to_q = linear(features, features, use_bias=qkv_bias)
        self.to_k = linear(context_features, features, use_bias=qkv_bias)
        self.to_v = linear(context_features, features, use_bias=qkv_bias)
        self.to_out = List([linear(features, features)])
        self.attend: Callable[[Array, Array, Array], Array] = attend

    def __call__(self, x: Array, keys_values: KeysValues | None = None) -> Array:
        """Attends to the `keys_values` of another context, from `project`, or, if they are None, to `x` itself."""
        k, v = self.project(x) if keys_values is None else keys_values
        return self.to_out[0](self.attend(self._split(self.to_q(x)), k, v).reshape(x.shape))

    def project(self, context: Array) -> KeysValues:
        """Computes keys and values, `[b, m, heads, d]` each, from tokens `[b, m, context_features]`."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def _split(self, x):
        return x.reshape(*x.shape[:2], self.heads, -1)


class GEGLU(nnx.Module):
    """A linear layer whose output is gated by the GELU of its other half."""

    def __init__(self, features_in: int, features_out: int, **kw: Any) -> None:
        self.proj = nnx.Linear(features_in, 2 * features_out, **kw)

    def __call__(self, x: Array) -> Array:
        x, gate = jnp.split(self.proj(x), 2, axis=-1)
        return x * nnx.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    """The feed-forward layer of a transformer block."""

    def __init__(self, features: int, **kw: Any) -> None:
        # Index 1 is dropout in PyTorch, so the last layer keeps index 2.
        self.net = List([GEGLU(features, 4 * features, **kw), None, nnx.Linear(4 * features, features, **kw)])
        self.compute: Callable[[Any, Array], Array] = feed_forward

    def __call__(self, x: Array) -> Array:
        return self.compute(self.net, x)


def feed_forward(net: Any, x: Array) -> Array:
    """Applies the layers of `FeedForward.net` to tokens `[b, n, d]`."""
    return net[2](net[0](x))


def timestep_embedding(t: Array, features: int, *, flip_sin_to_cos: bool, freq_shift: int) -> Array:
    """Computes sinusoids of timesteps `t` `[b]`: float32 `[b, features]`.

    The frequencies form a geometric sequence from 1 to 1/10000.
    """
    half = features // 2
    exponent = -math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = t.astype(jnp.float32)[:, None] * jnp.exp(exponent)[None, :]
    parts = (jnp.cos(angles), jnp.sin(angles)) if flip_sin_to_cos else (jnp.sin(angles), jnp.cos(angles))
    return jnp.pad(jnp.concatenate(parts, axis=-1), ((0, 0), (0, features % 2)))


class TimestepEmbedding(nnx.Module):
    """Two linear layers that embed the sinusoids of a timestep."""

    def __init__(
        self, features_in: int, features_out: int, *, activation: Callable[[Array], Array] = nnx.silu, **kw: Any
    ) -> None:
        self.activation = activation
        self.linear_1 = nnx.Linear(features_in, features_out, **kw)
        self.linear_2 = nnx.Linear(features_out, features_out, **kw)

    def __call__(self, x: Array) -> Array:
        return self.linear_2(self.activation(self.linear_1(x)))


class ResnetBlock2D(nnx.Module):
    """Two normalized 3 x 3 convolutions as a residual, with an optional time embedding between them."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        groups: int,
        epsilon: float,
        time_features: int | None = None,
        rngs: nnx.Rngs,
        **kw: Any,
    ) -> None:
        kw["rngs"] = rngs
        self.norm1 = group_norm(features_in, groups, epsilon, **kw)
        self.conv1 = conv3x3(features_in, features_out, **kw)
        self.time_emb_proj = nnx.Linear(time_features, features_out, **kw) if time_features else None
        self.norm2 = group_norm(features_out, groups, epsilon, **kw)
        self.conv2 = conv3x3(features_out, features_out, **kw)
        self.conv_shortcut = conv1x1(features_in, features_out, **kw) if features_in != features_out else None

    def __call__(self, x: Array, time: Array | None = None) -> Array:
        """Computes the block for `[b, h, w, features_in]`.

        `time` comes from `project_time`: `[b, features_out]`, or `[1, features_out]` if all timesteps are equal.
        """
        h = self.conv1(self.norm1(x, nnx.silu))
        if time is not None:
            h = h + time[:, None, None, :]
        h = self.conv2(self.norm2(h, nnx.silu))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))

    def project_time(self, embedding: Array) -> Array:
        """Projects time embeddings `[b, time_features]` to `[b, features_out]`."""
        assert self.time_emb_proj is not None
        return self.time_emb_proj(nnx.silu(embedding))


class Downsample2D(nnx.Module):
    """A strided convolution that halves the size; `padding` is PyTorch's 1, or ((0, 1), (0, 1)) in the VAE."""

    def __init__(self, features: int, *, padding: Any = 1, **kw: Any) -> None:
        self.conv = conv3x3(features, features, strides=2, padding=padding, **kw)

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Nearest-neighbor doubling, followed by a convolution."""

    def __init__(self, features: int, **kw: Any) -> None:
        self.conv = conv3x3(features, features, **kw)

    def __call__(self, x: Array, size: tuple[int, ...] | None = None) -> Array:
        """Doubles `[b, h, w, c]` and crops it to `size` (height, width), as PyTorch resizes to a skip of odd size."""
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return self.conv(x if size is None else x[:, : size[0], : size[1]])
