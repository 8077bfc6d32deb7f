"""Convolutions and matrix products that are fast on CPUs, where XLA's own are slow.

`use_cpu_kernels` makes a module use them. `python -m bench.peer` compares their speed with PyTorch.

    3 x 3 convolutions of stride 1: Winograd's F(2 x 2, 3 x 3) (Lavin and Gray 2016, arXiv 1509.09308), with 16 products
        instead of 36 for 2 x 2 pixels. It works in blocks of rows, so that intermediate results stay in the cache.
    3 x 3 convolutions of few pixels or other strides: one product of image patches and the kernel.
    Convolutions over time in bfloat16: one product per tap of the kernel.
    Attention: all scores at once if they are few, otherwise one head after the other in chunks of queries.
    Feed-forward layers: in chunks of tokens.
    bfloat16: products with a float32 result, which is then rounded, because bfloat16 results are far slower.
    float16: products of float32 copies, because some of XLA's CPU products cannot take float16 to float32.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from its_jax.models.layers import Attention, FeedForward, List

# A product has about BLOCK_ROWS rows (tiles of 2 x 2 pixels, or tokens of a feed-forward layer) per block, and more if
# there are fewer channels than BLOCK_CHANNELS. Smaller products are slow, and larger results do not fit in the cache.
BLOCK_ROWS, BLOCK_CHANNELS = 512, 512
# Frames per block of a convolution over time. With fewer channels than this XLA's own convolution is as fast.
BLOCK_FRAMES, TIME_CHANNELS = 1024, 128
# Attention in chunks takes this many queries at once.
QUERY_CHUNK = 1024
# Attention with more scores than this, in all heads together, takes one head after the other.
FEW_SCORES = 2**23
# In float32, XLA's own kernels are as fast for layers with fewer features, and compile faster. The second number is for
# 3 x 3 convolutions whose kernel is not prepared.
WIDE, WIDE_UNPREPARED = 64, 256
# With fewer pixels than this, transforming a kernel that is not prepared costs more than it saves.
FEW_PIXELS = 2048


def use_cpu_kernels(module: nnx.Module, *, prepare: bool = False) -> None:
    """Makes the layers of a module use these kernels, except narrow layers in float32.

    Args:
      module: is changed in place.
      prepare: replaces convolution kernels by their transforms, which are 16 / 9 as large, instead of transforming them
        at each call. This suits modules that are called often on few pixels.
    """
    layers = [layer for _, layer in nnx.iter_graph(module) if isinstance(layer, nnx.Module)]
    while layers:  # parents are visited after their children, so that a replaced convolution is freed immediately
        layer = layers.pop()
        if isinstance(layer, Attention) and _is_faster(layer.to_q):
            layer.attend = attend
        elif isinstance(layer, FeedForward) and _is_faster(layer.net[2]):
            layer.compute = feed_forward
        elif isinstance(layer, nnx.Linear) and _is_faster(layer):
            layer.dot_general = dot_general
        elif isinstance(layer, nnx.Conv) and layer.kernel_size in ((1, 1), (3, 3)) and _is_faster(layer):
            layer.conv_general_dilated = conv_general_dilated
        elif isinstance(layer, nnx.Conv) and _keeps_length(layer) and _is_faster_over_time(layer):
            layer.conv_general_dilated = conv_over_time
        if prepare:
            for name, conv in list(vars(layer).items()):
                if isinstance(conv, nnx.Conv) and _is_plain_3x3(conv) and _is_faster(conv, prepared=True):
                    setattr(layer, name, PreparedConv(conv))


def _is_faster(layer, *, prepared=False):
    transforms = isinstance(layer, nnx.Conv) and layer.kernel_size == (3, 3) and not prepared
    wide = WIDE_UNPREPARED if transforms else WIDE
    return layer.dtype != jnp.float32 or min(layer.in_features, layer.out_features) >= wide


def _is_faster_over_time(conv):
    return conv.dtype == jnp.bfloat16 and min(conv.in_features, conv.out_features) >= TIME_CHANNELS


def _keeps_length(conv):
    """Returns whether a layer is a convolution over time with as many output as input frames."""
    if len(conv.kernel_size) != 1 or conv.strides not in (1, (1,)):
        return False
    reach = (conv.kernel_size[0] - 1) * conv.kernel_dilation
    return reach % 2 == 0 and conv.padding == reach // 2


def _is_plain_3x3(conv):
    return conv.kernel_size == (3, 3) and conv.strides in (1, (1, 1)) and conv.padding in (1, ((1, 1), (1, 1)))


class PreparedConv(nnx.Module):
    """A 3 x 3 convolution whose kernel is already transformed.

    Its sixteen matrices are separate arrays, because XLA would copy slices of a single array at each call.
    """

    def __init__(self, conv: nnx.Conv) -> None:
        self.kernels = List([nnx.Param(kernel) for kernel in jax.jit(_transform)(conv.kernel[...])])
        self.bias, self.dtype = conv.bias, conv.dtype

    def __call__(self, x: Array) -> Array:
        dtype = self.dtype
        y = _winograd(x.astype(dtype), [u[...].astype(dtype) for u in self.kernels])
        return y if self.bias is None else y + self.bias[...].astype(dtype)


def dot_general(x: Array, kernel: Array, dimension_numbers: Any, **kw: Any) -> Array:
    """Computes `lax.dot_general` of `[..., m]` and `[m, n]`, as `nnx.Linear` calls it."""
    return _product(x, kernel).astype(x.dtype)


def _product(a, kernel):
    """Computes the product of `[..., m]` and `[m, n]` in float32."""
    if kernel.dtype == jnp.float16:
        a, kernel = a.astype(jnp.float32), kernel.astype(jnp.float32)
    return jnp.einsum("...m,mn->...n", a, kernel, preferred_element_type=jnp.float32)


def _block_rows(channels):
    return BLOCK_ROWS * max(1, BLOCK_CHANNELS // channels)


def _map_chunks(function, x, max_rows):
    """Applies a function to chunks of `[n, m]` with equally many rows, so that the last one needs little padding."""
    n = len(x)
    size = -(-n // -(-n // max_rows))
    y = lax.map(function, jnp.pad(x, ((0, -n % size), (0, 0))).reshape(-1, size, x.shape[1]))
    return y.reshape(-1, y.shape[-1])[:n]


def attend(q: Array, k: Array, v: Array) -> Array:
    """Computes `layers.attend`: `[b, n, heads, d]`, `[b, m, heads, d]` twice -> `[b, n, heads, d]`."""
    b, n, heads, d = q.shape
    q, k, v = (jnp.moveaxis(a, 2, 1).reshape(b * heads, *a.shape[1::2]) for a in (q, k, v))
    kernel = _attend_dense if b * heads * n * k.shape[1] <= FEW_SCORES else _attend_in_chunks
    return jnp.moveaxis(kernel(q, k, v).reshape(b, heads, n, d), 1, 2)


def _attend_dense(q, k, v):
    """Computes attention of all heads at once: `[heads, n, d]`, `[heads, m, d]` twice -> `[heads, n, d]`."""
    dtype = q.dtype
    if dtype == jnp.float16:
        q, k, v = (a.astype(jnp.float32) for a in (q, k, v))
    scores = jnp.einsum("bnd,bmd->bnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    out = jnp.einsum("bnm,bmd->bnd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / weights.sum(axis=-1, keepdims=True)).astype(dtype)


def _attend_in_chunks(q, k, v):
    """Computes the same as `_attend_dense`, head by head.

    The sum of a row of weights is its product with a column of ones next to v, which saves one pass over the scores.
    Keys are transposed once, not for each chunk.
    """
    k, v = k.mT, jnp.pad(v, ((0, 0), (0, 0), (0, 1)), constant_values=1)

    def attend_head(qkv):
        q, k, v = qkv

        def attend_chunk(q):
            scores = _product(q, k) * q.shape[-1] ** -0.5
            weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True)).astype(v.dtype)
            out = _product(weights, v)
            return (out[:, :-1] / out[:, -1:]).astype(q.dtype)

        return _map_chunks(attend_chunk, q, QUERY_CHUNK)

    return lax.map(attend_head, (q, k, v))


def feed_forward(net: Any, x: Array) -> Array:
    """Computes `layers.feed_forward` of tokens `[b, n, d]`."""
    gated, _, out = net
    w, bias = (a[...].astype(x.dtype) for a in (gated.proj.kernel, gated.proj.bias))

    def apply(x):
        hidden, gate = jnp.split(_product(x, w) + bias, 2, axis=-1)
        return out((hidden * nnx.gelu(gate, approximate=False)).astype(x.dtype))

    return _map_chunks(apply, x.reshape(-1, x.shape[-1]), _block_rows(x.shape[-1])).reshape(x.shape)


def conv_general_dilated(x: Array, kernel: Array, strides: Sequence[int], padding: Any, **kw: Any) -> Array:
    """Computes `lax.conv_general_dilated` of `[b, h, w, c]` and `[1, 1, c, n]` or `[3, 3, c, n]`."""
    if kernel.shape[0] == 1:
        return dot_general(x, kernel[0, 0], None)
    same = strides == (1, 1) and [tuple(sides) for sides in padding] == [(1, 1)] * 2
    if same and x.shape[1] * x.shape[2] >= FEW_PIXELS:
        return _winograd(x, _transform(kernel))
    return _convolve_patches(x, kernel, strides, padding)


def _convolve_patches(x, kernel, strides, padding):
    (top, bottom), (left, right) = padding
    x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    shifted = [x[:, i : i + rows : strides[0], j : j + columns : strides[1]] for i in range(3) for j in range(3)]
    return _product(jnp.concatenate(shifted, axis=-1), kernel.reshape(-1, kernel.shape[-1])).astype(x.dtype)


def conv_over_time(
    x: Array, kernel: Array, strides: Any, padding: Any, *, rhs_dilation: Sequence[int], **kw: Any
) -> Array:
    """Computes `lax.conv_general_dilated` of `[b, t, c]` and `[k, c, n]` to `[b, t, n]`, in blocks of frames."""
    (b, t, _), (reach, _), (dilation,) = x.shape, padding[0], rhs_dilation
    blocks = -(-b * t // BLOCK_FRAMES)
    rows = -(-t // blocks)
    x = jnp.pad(x, ((0, 0), (reach, reach + blocks * rows - t), (0, 0)))
    taps = list(kernel)

    def convolve_block(start):
        block = lax.dynamic_slice_in_dim(x, start, rows + 2 * reach, axis=1)
        shifted = [block[:, i * dilation :][:, :rows] for i in range(len(taps))]
        total: Any = sum(_product(frames, tap) for frames, tap in zip(shifted, taps, strict=True))
        return total.astype(x.dtype)

    y = lax.map(convolve_block, jnp.arange(blocks) * rows)
    return jnp.moveaxis(y, 0, 1).reshape(b, blocks * rows, -1)[:, :t]


def _transform(kernel):
    """Computes U = G g G^T of each `[3, 3]` in `[3, 3, c, n]`: sixteen matrices `[c, n]`, row by row."""

    def multiply_g(g):
        return g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]

    return [u.astype(kernel.dtype) for row in multiply_g(kernel.astype(jnp.float32)) for u in multiply_g(row)]


def _winograd(x, kernels):
    """Computes the convolution with padding 1 in blocks of rows."""
    b, h, w, channels = x.shape
    dtype = x.dtype
    x = x.astype(jnp.float32) if dtype == jnp.float16 else x  # sums of four values may overflow float16
    tiles = _block_rows(max(channels, kernels[0].shape[-1]))
    blocks = max(1, round(h * w * b / (4 * tiles)))
    rows = 2 * -(-h // (2 * blocks))
    blocks = -(-h // rows)
    x = jnp.pad(x, ((0, 0), (1, 1 + blocks * rows - h), (1, 1 + w % 2), (0, 0)))
    if blocks == 1:
        y = _winograd_block(x, kernels)
    else:
        starts = jnp.arange(blocks) * rows
        y = lax.map(lambda i: _winograd_block(lax.dynamic_slice_in_dim(x, i, rows + 2, axis=1), kernels), starts)
        y = jnp.moveaxis(y, 0, 1).reshape(b, blocks * rows, *y.shape[3:])
    return y[:, :h, :w].astype(dtype)


def _winograd_block(x, kernels):
    """Computes A^T (U * B^T d B) A: `[b, rows + 2, columns + 2, c]`, both even -> `[b, rows, columns, n]`."""
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    input_rows = _multiply_b([x[:, i : i + rows - 1 : 2] for i in range(4)])
    tiles = [_multiply_b([row[:, :, j : j + columns - 1 : 2] for j in range(4)]) for row in input_rows]
    products = [[_product(tiles[i][j], kernels[4 * i + j]) for j in range(4)] for i in range(4)]
    output_rows = [_multiply_a(row) for row in products]
    even, odd = (_multiply_a([row[column] for row in output_rows]) for column in range(2))
    interleaved = [jnp.stack(pair, axis=3) for pair in zip(even, odd, strict=True)]
    y = jnp.stack(interleaved, axis=2).astype(x.dtype)
    return y.reshape(len(x), rows, columns, -1)


def _multiply_b(d):
    """Computes B^T d along one axis."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _multiply_a(m):
    """Computes A^T m along one axis."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]
