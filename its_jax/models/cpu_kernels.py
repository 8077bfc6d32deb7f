"""Convolutions and matrix products in the forms that are quick on a CPU, where XLA's own are slow.

`fit` puts them into a module, for a CPU only. `python -m bench.peer` measures them against PyTorch.

    3 x 3 convolutions of stride 1: Winograd's F(2 x 2, 3 x 3) (Lavin and Gray 2016, arXiv 1509.09308), with 16 products
    in place of 36 for 2 x 2 pixels, block after block of rows, so that what lies between stays in the cache.
    Few pixels, other strides: the patches that the kernel sees, times the kernel.
    Convolutions over time in bfloat16: one product for each place of the kernel.
    Attention: where scores are few at once, else head after head and in chunks of queries.
    Feed-forward layers: in chunks of tokens.
    bfloat16: products with a float32 result, which is then rounded: that of a bfloat16 one is computed far slower.
    float16: products of float32 copies, for not all of XLA's CPU products take float16 into float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from its_jax.models.layers import Attention, FeedForward, List

# About so many rows of a product at once, more where channels are fewer: with less of them products are slow, with more
# what lies between leaves the cache. Of tiles of 2 x 2 pixels, and of tokens of a feed-forward layer.
BLOCK_ROWS, BLOCK_CHANNELS = 512, 512
# Of a convolution over time; with fewer channels XLA's own form is as quick.
BLOCK_FRAMES, TIME_CHANNELS = 1024, 128
# Of queries whose scores are there at once.
QUERY_CHUNK = 1024
# Of all heads; with more of them heads go one after the other.
FEW_SCORES = 2**23
# In float32, layers of fewer features are as quick in XLA's own forms, and compiled in less time; 3 x 3 convolutions
# whose kernel is not prepared are so with fewer than the second.
WIDE, WIDE_UNPREPARED = 64, 256
# With fewer pixels than this a kernel that is not prepared is cheaper to multiply with than to transform.
FEW_PIXELS = 2048


def use_cpu_kernels(module: nnx.Module, *, prepare: bool = False) -> None:
    """Makes the layers of `module` take these forms, but for narrow ones in float32.

    Args:
      prepare: replaces kernels by their transforms, which are 16 / 9 as large, in place of transforming them at each
        call: for modules that are called often on few pixels.
    """
    layers = [layer for _, layer in nnx.iter_graph(module) if isinstance(layer, nnx.Module)]
    while layers:  # parents come after their children: a convolution that is replaced is let go at once
        layer = layers.pop()
        if isinstance(layer, Attention) and _pays(layer.to_q):
            layer.attend = attend
        elif isinstance(layer, FeedForward) and _pays(layer.net[2]):
            layer.compute = feed_forward
        elif isinstance(layer, nnx.Linear) and _pays(layer):
            layer.dot_general = dot_general
        elif isinstance(layer, nnx.Conv) and layer.kernel_size in ((1, 1), (3, 3)) and _pays(layer):
            layer.conv_general_dilated = conv_general_dilated
        elif isinstance(layer, nnx.Conv) and _keeps_length(layer) and _pays_over_time(layer):
            layer.conv_general_dilated = conv_over_time
        if prepare:
            for name, conv in list(vars(layer).items()):
                if isinstance(conv, nnx.Conv) and _is_plain_3x3(conv) and _pays(conv, prepared=True):
                    setattr(layer, name, PreparedConv(conv))


def _pays(layer, *, prepared=False):
    transforms = isinstance(layer, nnx.Conv) and layer.kernel_size == (3, 3) and not prepared
    wide = WIDE_UNPREPARED if transforms else WIDE
    return layer.dtype != jnp.float32 or min(layer.in_features, layer.out_features) >= wide


def _pays_over_time(conv):
    return conv.dtype == jnp.bfloat16 and min(conv.in_features, conv.out_features) >= TIME_CHANNELS


def _keeps_length(conv):
    """Whether it is a convolution over time with as many outputs as inputs."""
    if len(conv.kernel_size) != 1 or conv.strides not in (1, (1,)):
        return False
    reach = (conv.kernel_size[0] - 1) * conv.kernel_dilation
    return reach % 2 == 0 and conv.padding == reach // 2


def _is_plain_3x3(conv):
    return conv.kernel_size == (3, 3) and conv.strides in (1, (1, 1)) and conv.padding in (1, ((1, 1), (1, 1)))


class PreparedConv(nnx.Module):
    """A 3 x 3 convolution whose kernel is transformed already.

    Its sixteen matrices are arrays of their own, for XLA would copy slices of one array at each call.
    """

    def __init__(self, conv):
        self.kernels = List([nnx.Param(kernel) for kernel in jax.jit(_transform)(conv.kernel[...])])
        self.bias, self.dtype = conv.bias, conv.dtype

    def __call__(self, x):
        dtype = self.dtype
        y = _winograd(x.astype(dtype), [u[...].astype(dtype) for u in self.kernels])
        return y if self.bias is None else y + self.bias[...].astype(dtype)


def dot_general(x, kernel, dimension_numbers, **kw):
    """`lax.dot_general` of `[..., m]` and `[m, n]`, as `nnx.Linear` calls it."""
    return _product(x, kernel).astype(x.dtype)


def _product(a, kernel):
    """`[..., m] x [m, n] -> [..., n]` in float32."""
    if kernel.dtype == jnp.float16:
        a, kernel = a.astype(jnp.float32), kernel.astype(jnp.float32)
    return jnp.einsum("...m,mn->...n", a, kernel, preferred_element_type=jnp.float32)


def _block_rows(channels):
    return BLOCK_ROWS * max(1, BLOCK_CHANNELS // channels)


def _in_parts(function, x, most):
    """`function` of `[n, m]`, of at most so many rows at once, in equal parts, so that little fills up the last."""
    n = len(x)
    size = -(-n // -(-n // most))
    y = lax.map(function, jnp.pad(x, ((0, -n % size), (0, 0))).reshape(-1, size, x.shape[1]))
    return y.reshape(-1, y.shape[-1])[:n]


def attend(q, k, v):
    """`its_jax.models.layers.attend`: `[b, n, heads, d]`, `[b, m, heads, d]` twice -> `[b, n, heads, d]`."""
    b, n, heads, d = q.shape
    q, k, v = (jnp.moveaxis(a, 2, 1).reshape(b * heads, *a.shape[1::2]) for a in (q, k, v))
    form = _attend_at_once if b * heads * n * k.shape[1] <= FEW_SCORES else _attend_in_chunks
    return jnp.moveaxis(form(q, k, v).reshape(b, heads, n, d), 1, 2)


def _attend_at_once(q, k, v):
    """`[heads, n, d]`, `[heads, m, d]` twice -> `[heads, n, d]`."""
    dtype = q.dtype
    if dtype == jnp.float16:
        q, k, v = (a.astype(jnp.float32) for a in (q, k, v))
    scores = jnp.einsum("bnd,bmd->bnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    out = jnp.einsum("bnm,bmd->bnd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / weights.sum(axis=-1, keepdims=True)).astype(dtype)


def _attend_in_chunks(q, k, v):
    """The same, head by head: the sum of a row of weights is its product with a column of ones beside v, one pass less
    over the scores. Keys are transposed once, not for each chunk."""
    k, v = k.mT, jnp.pad(v, ((0, 0), (0, 0), (0, 1)), constant_values=1)

    def of_head(qkv):
        q, k, v = qkv

        def of_queries(q):
            scores = _product(q, k) * q.shape[-1] ** -0.5
            weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True)).astype(v.dtype)
            out = _product(weights, v)
            return (out[:, :-1] / out[:, -1:]).astype(q.dtype)

        return _in_parts(of_queries, q, QUERY_CHUNK)

    return lax.map(of_head, (q, k, v))


def feed_forward(net, x):
    """`its_jax.models.layers.feed_forward` of tokens `[b, n, d]`."""
    gated, _, out = net
    w, bias = (a[...].astype(x.dtype) for a in (gated.proj.kernel, gated.proj.bias))

    def of_tokens(x):
        hidden, gate = jnp.split(_product(x, w) + bias, 2, axis=-1)
        return out((hidden * nnx.gelu(gate, approximate=False)).astype(x.dtype))

    return _in_parts(of_tokens, x.reshape(-1, x.shape[-1]), _block_rows(x.shape[-1])).reshape(x.shape)


def conv_general_dilated(x, kernel, strides, padding, **kw):
    """`lax.conv_general_dilated` of `[b, h, w, c]` and `[1, 1, c, n]` or `[3, 3, c, n]`, in any of the forms."""
    if kernel.shape[0] == 1:
        return dot_general(x, kernel[0, 0], None)
    same = strides == (1, 1) and [tuple(sides) for sides in padding] == [(1, 1)] * 2
    if same and x.shape[1] * x.shape[2] >= FEW_PIXELS:
        return _winograd(x, _transform(kernel))
    return _patches(x, kernel, strides, padding)


def _patches(x, kernel, strides, padding):
    (top, bottom), (left, right) = padding
    x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    seen = [x[:, i : i + rows : strides[0], j : j + columns : strides[1]] for i in range(3) for j in range(3)]
    return _product(jnp.concatenate(seen, axis=-1), kernel.reshape(-1, kernel.shape[-1])).astype(x.dtype)


def conv_over_time(x, kernel, strides, padding, *, rhs_dilation, **kw):
    """`lax.conv_general_dilated` of `[b, t, c]` and `[k, c, n]` to `[b, t, n]`, block after block of frames."""
    (b, t, _), (reach, _), (dilation,) = x.shape, padding[0], rhs_dilation
    blocks = -(-b * t // BLOCK_FRAMES)
    rows = -(-t // blocks)
    x = jnp.pad(x, ((0, 0), (reach, reach + blocks * rows - t), (0, 0)))
    taps = list(kernel)

    def of_block(start):
        seen = lax.dynamic_slice_in_dim(x, start, rows + 2 * reach, axis=1)
        shifted = [seen[:, i * dilation :][:, :rows] for i in range(len(taps))]
        return sum(_product(frames, tap) for frames, tap in zip(shifted, taps, strict=True)).astype(x.dtype)

    y = lax.map(of_block, jnp.arange(blocks) * rows)
    return jnp.moveaxis(y, 0, 1).reshape(b, blocks * rows, -1)[:, :t]


def _transform(kernel):
    """U = G g G^T of each `[3, 3]` in `[3, 3, c, n]`: sixteen `[c, n]`, row by row."""

    def along(g):
        return g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]

    return [u.astype(kernel.dtype) for row in along(kernel.astype(jnp.float32)) for u in along(row)]


def _winograd(x, kernels):
    """The convolution, of padding 1, block after block of rows."""
    b, h, w, channels = x.shape
    dtype = x.dtype
    x = x.astype(jnp.float32) if dtype == jnp.float16 else x  # sums of four values may be beyond float16
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
    """`[b, rows + 2, columns + 2, c]`, even rows and columns -> `[b, rows, columns, n]`: A^T (U * B^T d B) A."""
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    of_rows = _into([x[:, i : i + rows - 1 : 2] for i in range(4)])
    tiles = [_into([row[:, :, j : j + columns - 1 : 2] for j in range(4)]) for row in of_rows]
    products = [[_product(tiles[i][j], kernels[4 * i + j]) for j in range(4)] for i in range(4)]
    of_columns = [_out_of(of_row) for of_row in products]
    even, odd = (_out_of([of_row[column] for of_row in of_columns]) for column in range(2))
    interleaved = [jnp.stack(pair, axis=3) for pair in zip(even, odd, strict=True)]
    y = jnp.stack(interleaved, axis=2).astype(x.dtype)
    return y.reshape(len(x), rows, columns, -1)


def _into(d):
    """B^T d along one axis."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _out_of(m):
    """A^T m along one axis."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]
