"""Layers that several models share. Arrays are channels last: pictures `[b, h, w, c]`, tokens `[b, n, d]`.

Every module takes `dtype` (activations) and `param_dtype` (weights); the attributes carry the names of the
PyTorch modules, so that `its_jax.models.state_dict` needs no table of names.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

# Longer query sequences are attended to in chunks of this many, so that the score matrix stays small.
QUERY_CHUNK = 512
# Modules in a row. Flax 0.11, which has no class for them, takes lists as they are.
List = getattr(nnx, "List", list)


class Group(nnx.Module):
    """Modules by name: `Group(a=module).a`."""

    def __init__(self, **modules):
        for name, module in modules.items():
            setattr(self, name, module)


def conv3x3(features_in, features_out, *, strides=1, padding=1, **kw):
    """3 x 3 convolution with PyTorch's padding (an integer pads all four sides)."""
    return nnx.Conv(features_in, features_out, (3, 3), strides=strides, padding=padding, **kw)


def conv1x1(features_in, features_out, **kw):
    return nnx.Conv(features_in, features_out, (1, 1), padding="VALID", **kw)


class GroupNorm(nnx.GroupNorm):
    """With statistics in float32, first over the pixels, then over each group's channels: on a CPU twice as quick.

    Two-pass variance: the fast form loses digits where |mean| is far above the deviation.
    """

    def __call__(self, x, activation=lambda x: x):
        """`[b, h, w, c]`; `activation` is that of the float32 result, before it is rounded."""

        def of_groups(x):
            means = x.mean(axis=(1, 2)).reshape(len(x), self.num_groups, -1).mean(axis=-1)
            return jnp.repeat(means, self.group_size, axis=-1)[:, None, None]

        x = x.astype(jnp.float32)
        mean = of_groups(x)
        factor = jax.lax.rsqrt(of_groups(jnp.square(x - mean)) + self.epsilon) * self.scale[...].astype(jnp.float32)
        shift = self.bias[...].astype(jnp.float32) - mean * factor  # with x - mean here, XLA would keep it in memory
        return activation(x * factor + shift).astype(self.dtype)


def group_norm(features, groups, epsilon, **kw):
    return GroupNorm(features, num_groups=groups, epsilon=epsilon, **kw)


def layer_norm(features, epsilon, **kw):
    return nnx.LayerNorm(features, epsilon=epsilon, use_fast_variance=False, **kw)


def unit(x):
    """Vectors along the last axis in float32, at length 1."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def attend(q, k, v):
    """Softmax attention with float32 scores.

    Args:
      q: `[b, n, heads, d]`. k, v: `[b, m, heads, d]`.

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
    # Heads first: written the other way about, jaxlib 0.7's CPU has no such product of bfloat16.
    out = jnp.einsum("bhnm,bmhd->bhnd", weights, v, preferred_element_type=jnp.float32)
    return jnp.moveaxis(out, 1, 2).astype(q.dtype)


class Attention(nnx.Module):
    """Multi-head attention of tokens `[b, n, features]` to `[b, m, context_features]`, or to themselves."""

    def __init__(self, features, heads, *, context_features=None, qkv_bias=False, rngs, **kw):
        linear = functools.partial(nnx.Linear, rngs=rngs, **kw)
        context_features = context_features or features
        self.heads = heads
        self.to_q = linear(features, features, use_bias=qkv_bias)
        self.to_k = linear(context_features, features, use_bias=qkv_bias)
        self.to_v = linear(context_features, features, use_bias=qkv_bias)
        self.to_out = List([linear(features, features)])
        self.attend = attend

    def __call__(self, x, keys_values=None):
        """`keys_values`: those of another context, from `project`; None attends to `x` itself."""
        k, v = self.project(x) if keys_values is None else keys_values
        return self.to_out[0](self.attend(self._split(self.to_q(x)), k, v).reshape(x.shape))

    def project(self, context):
        """Tokens `[b, m, context_features]` -> keys and values, `[b, m, heads, d]` each."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def _split(self, x):
        return x.reshape(*x.shape[:2], self.heads, -1)


class GEGLU(nnx.Module):
    def __init__(self, features_in, features_out, **kw):
        self.proj = nnx.Linear(features_in, 2 * features_out, **kw)

    def __call__(self, x):
        x, gate = jnp.split(self.proj(x), 2, axis=-1)
        return x * nnx.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    def __init__(self, features, **kw):
        # Index 1 is dropout in PyTorch: it keeps its place.
        self.net = List([GEGLU(features, 4 * features, **kw), None, nnx.Linear(4 * features, features, **kw)])
        self.compute = feed_forward

    def __call__(self, x):
        return self.compute(self.net, x)


def feed_forward(net, x):
    return net[2](net[0](x))


def timestep_embedding(t, features, *, flip_sin_to_cos, freq_shift):
    """Sinusoids of timesteps `t` `[b]`, frequencies geometric from 1 to 1/10000: `[b, features]` float32."""
    half = features // 2
    exponent = -math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = t.astype(jnp.float32)[:, None] * jnp.exp(exponent)[None, :]
    parts = (jnp.cos(angles), jnp.sin(angles)) if flip_sin_to_cos else (jnp.sin(angles), jnp.cos(angles))
    return jnp.pad(jnp.concatenate(parts, axis=-1), ((0, 0), (0, features % 2)))


class TimestepEmbedding(nnx.Module):
    def __init__(self, features_in, features_out, *, activation=nnx.silu, **kw):
        self.activation = activation
        self.linear_1 = nnx.Linear(features_in, features_out, **kw)
        self.linear_2 = nnx.Linear(features_out, features_out, **kw)

    def __call__(self, x):
        return self.linear_2(self.activation(self.linear_1(x)))


class ResnetBlock2D(nnx.Module):
    """Two normalised 3 x 3 convolutions, added to the input; where there are `time_features`, `project_time` is."""

    def __init__(self, features_in, features_out, *, groups, epsilon, time_features=None, rngs, **kw):
        kw["rngs"] = rngs
        self.norm1 = group_norm(features_in, groups, epsilon, **kw)
        self.conv1 = conv3x3(features_in, features_out, **kw)
        self.time_emb_proj = nnx.Linear(time_features, features_out, **kw) if time_features else None
        self.norm2 = group_norm(features_out, groups, epsilon, **kw)
        self.conv2 = conv3x3(features_out, features_out, **kw)
        self.conv_shortcut = conv1x1(features_in, features_out, **kw) if features_in != features_out else None

    def __call__(self, x, time=None):
        """`time`: `[b, features_out]` from `project_time`, or `[1, features_out]` if it is the same for all."""
        h = self.conv1(self.norm1(x, nnx.silu))
        if time is not None:
            h = h + time[:, None, None, :]
        h = self.conv2(self.norm2(h, nnx.silu))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))

    def project_time(self, embedding):
        """Time embeddings `[b, time_features]` -> `[b, features_out]`."""
        return self.time_emb_proj(nnx.silu(embedding))


class Downsample2D(nnx.Module):
    """Halves the size by a strided convolution; `padding` is PyTorch's 1, or ((0, 1), (0, 1)) in the VAE."""

    def __init__(self, features, *, padding=1, **kw):
        self.conv = conv3x3(features, features, strides=2, padding=padding, **kw)

    def __call__(self, x):
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, features, **kw):
        self.conv = conv3x3(features, features, **kw)

    def __call__(self, x, size=None):
        """`size` (h, w) crops the doubled picture: PyTorch's nearest resize to a skip of odd size."""
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return self.conv(x if size is None else x[:, : size[0], : size[1]])
