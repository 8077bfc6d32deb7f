"""Selects kernels for the layers of a module by device. The reference kernels are in `layers.py`.

    CPU    the kernels of `cpu_kernels.py`.
    GPU    XLA's convolutions and products, with convolution weights in cuDNN's own order; cuDNN's fused attention for
           the dtypes and head sizes that it supports.
    TPU    XLA's convolutions and products; splash attention, a Pallas kernel, between long sequences.

Everything else uses the reference kernels. Their attention works in chunks of queries, so that the score matrix of all
tokens is never in memory.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from its_jax.models import cpu_kernels
from its_jax.models.layers import Attention, attend

# The largest heads that cuDNN's fused attention supports: (least compute capability, features).
CUDNN_HEADS = ((9, 0), 256), ((8, 0), 128)
# Queries and keys per block of splash attention, and the number of tokens below which it saves little.
SPLASH_BLOCK, SPLASH_TOKENS = 512, 1024


def specialize(module: nnx.Module, device: jax.Device | None = None, *, prepare: bool = False) -> None:
    """Makes the layers of a module use the kernels that suit a device.

    Args:
      module: is changed in place.
      device: by default the first device of this process.
      prepare: for modules that are called often, see `cpu_kernels.use_cpu_kernels`; no effect on accelerators.
    """
    device = device or jax.local_devices()[0]
    if device.platform == "cpu":
        cpu_kernels.use_cpu_kernels(module, prepare=prepare)
        return
    for _, layer in nnx.iter_graph(module):
        if isinstance(layer, Attention):
            layer.attend = select_attention(device, layer.to_q.dtype, layer.to_q.out_features // layer.heads)
        elif isinstance(layer, nnx.Conv) and device.platform == "gpu":
            _reorder_kernel(layer)


def use_reference_kernels(module: nnx.Module, device: jax.Device) -> None:
    """Replaces, after `specialize`, the attention kernels of accelerators, which may have no derivative."""
    for _, layer in nnx.iter_graph(module):
        if isinstance(layer, Attention) and device.platform != "cpu":
            layer.attend = attend


def _reorder_kernel(conv):
    """Stores the weights of a 16-bit convolution over pixels as `[o h w i]`.

    In any other order they are copied at each call. These were the longest copies in a profile on an H200
    (`bench/results/gpu_h200.json`).
    """
    is_new = conv.conv_general_dilated is not _convolve_reordered  # a module that models share is visited twice
    if is_new and len(conv.kernel_size) == 2 and jnp.dtype(conv.dtype).itemsize == 2:
        (kernel,) = jax.tree.leaves(conv.kernel)  # the accessor differs between Flax 0.11 and 0.12
        *others, last = kernel.shape
        is_shape = isinstance(kernel, jax.ShapeDtypeStruct)
        conv.kernel = nnx.Param(kernel.update(shape=(last, *others)) if is_shape else jnp.moveaxis(kernel, -1, 0))
        conv.conv_general_dilated = _convolve_reordered


def _convolve_reordered(x, kernel, strides, padding, dimension_numbers, **kw):
    """Computes `lax.conv_general_dilated`, as `nnx.Conv` calls it, of `[b h w i]` and `[o h w i]`."""
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "OHWI", "NHWC"), **kw)


def select_attention(device: jax.Device, dtype: DTypeLike | None, head: int) -> Callable[[Array, Array, Array], Array]:
    """Returns the attention kernel of an accelerator for heads of `head` features, see `layers.attend`."""
    if device.platform == "tpu":
        return splash
    return cudnn if device.platform == "gpu" and _cudnn_supports(device, dtype, head) else attend


def _cudnn_supports(device, dtype, head):
    capability = str(getattr(device, "compute_capability", "")).split(".")
    if not all(number.isdecimal() for number in capability):  # AMD's capabilities are names
        return False
    capability = tuple(map(int, capability))
    largest = next((largest for least, largest in CUDNN_HEADS if capability >= least), 0)
    return jnp.dtype(dtype).name in ("bfloat16", "float16") and head % 8 == 0 and head <= largest


def cudnn(q: Array, k: Array, v: Array) -> Array:
    """Computes `layers.attend` by cuDNN: `[b, n, heads, d]`, `[b, m, heads, d]` twice -> `[b, n, heads, d]`."""
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def splash(
    q: Array,
    k: Array,
    v: Array,
    *,
    interpret: bool = False,
    block: int = SPLASH_BLOCK,
    min_tokens: int = SPLASH_TOKENS,
) -> Array:
    """Computes `layers.attend` by splash attention, or by `attend` if there are few tokens or the blocks do not fit.

    Args:
      q: `[b, n, heads, d]`.
      k, v: `[b, m, heads, d]`.
      interpret: runs the kernel without a TPU, for tests.
      block, min_tokens: queries and keys of a block, and the fewest of either that the kernel is used for.
    """
    n, (m, heads, d) = q.shape[1], k.shape[1:]
    if min(n, m) < min_tokens or n % block or m % block:
        return attend(q, k, v)
    # Imported here, because the import is slow and other platforms do not need it.
    from jax.experimental.pallas.ops.tpu import splash_attention

    mask = splash_attention.MultiHeadMask([splash_attention.FullMask((n, m))] * heads)
    blocks = splash_attention.BlockSizes(block_q=block, block_kv=block)
    kernel = splash_attention.make_splash_mha(
        mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    q, k, v = (a.swapaxes(1, 2) for a in (q * d**-0.5, k, v))  # the kernel does not scale
    return jax.vmap(kernel)(q, k, v).swapaxes(1, 2)
