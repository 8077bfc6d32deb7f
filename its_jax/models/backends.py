"""The one place that picks the forms of a module's layers by the device: `layers.py` has the plain ones.

    CPU    those of `cpu.py`.
    GPU    XLA's convolutions and products, kernels in the order in which cuDNN reads them; attention by cuDNN's fused
           kernel, where cuDNN takes the heads.
    TPU    XLA's convolutions and products; attention of many tokens to many by splash attention, a Pallas kernel.

All else is plain: attention in chunks of queries, so that no score matrix of all tokens is ever held.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from its_jax.models import cpu_kernels
from its_jax.models.layers import Attention, attend

# What cuDNN's fused attention takes: (compute capability from which on, largest head).
CUDNN_HEADS = ((9, 0), 256), ((8, 0), 128)
# Queries and keys of a block of splash attention. With fewer of either, what a kernel saves is little.
SPLASH_BLOCK, SPLASH_TOKENS = 512, 1024


def specialize(module: nnx.Module, device: jax.Device | None = None, *, prepare: bool = False) -> None:
    """Makes the layers of `module` take the forms that suit a device, by default that of this process.

    Args:
      prepare: for modules that are called often, see `cpu.fit`; of no effect on an accelerator.
    """
    device = device or jax.local_devices()[0]
    if device.platform == "cpu":
        cpu_kernels.use_cpu_kernels(module, prepare=prepare)
        return
    for _, layer in nnx.iter_graph(module):
        if isinstance(layer, Attention):
            layer.attend = attention(device, layer.to_q.dtype, layer.to_q.out_features // layer.heads)
        elif isinstance(layer, nnx.Conv) and device.platform == "gpu":
            _reorder(layer)


def use_reference_kernels(module: nnx.Module, device: jax.Device) -> None:
    """Takes the forms away that have no derivative, as kernels of an accelerator may: after `fit`."""
    for _, layer in nnx.iter_graph(module):
        if isinstance(layer, Attention) and device.platform != "cpu":
            layer.attend = attend


def _reorder(conv):
    """Keeps the kernel of a convolution over pixels in 16 bits as `[o h w i]`: otherwise it is copied at each call.
    The longest copies of a profile on an H200 were such (`bench/results/gpu_h200.json`)."""
    plain = conv.conv_general_dilated is not _of_reordered  # a part that models share comes twice
    if plain and len(conv.kernel_size) == 2 and jnp.dtype(conv.dtype).itemsize == 2:
        (kernel,) = jax.tree.leaves(conv.kernel)  # Flax 0.11 has another word for it than 0.12
        *others, last = kernel.shape
        is_shape = isinstance(kernel, jax.ShapeDtypeStruct)
        conv.kernel = nnx.Param(kernel.update(shape=(last, *others)) if is_shape else jnp.moveaxis(kernel, -1, 0))
        conv.conv_general_dilated = _of_reordered


def _of_reordered(x, kernel, strides, padding, dimension_numbers, **kw):
    """`lax.conv_general_dilated` as `nnx.Conv` calls it, of `[b h w i]` and `[o h w i]`."""
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "OHWI", "NHWC"), **kw)


def attention(device: jax.Device, dtype, head: int):
    """The form of `layers.attend` for heads of `head` features on an accelerator."""
    if device.platform == "tpu":
        return splash
    return cudnn if device.platform == "gpu" and _cudnn_takes(device, dtype, head) else attend


def _cudnn_takes(device, dtype, head):
    capability = str(getattr(device, "compute_capability", "")).split(".")
    if not all(number.isdecimal() for number in capability):  # AMD's are names
        return False
    capability = tuple(map(int, capability))
    largest = next((largest for least, largest in CUDNN_HEADS if capability >= least), 0)
    return jnp.dtype(dtype).name in ("bfloat16", "float16") and head % 8 == 0 and head <= largest


def cudnn(q, k, v):
    """`layers.attend` by cuDNN: `[b, n, heads, d]`, `[b, m, heads, d]` twice -> `[b, n, heads, d]`."""
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def splash(q, k, v, *, interpret=False):
    """`layers.attend` by splash attention, or in chunks where the tokens are few or do not fill up its blocks.

    Args:
      q: `[b, n, heads, d]`. k, v: `[b, m, heads, d]`. interpret: without a TPU, for tests.
    """
    n, m, heads, d = q.shape[1], *k.shape[1:]
    if min(n, m) < SPLASH_TOKENS or n % SPLASH_BLOCK or m % SPLASH_BLOCK:
        return attend(q, k, v)
    from jax.experimental.pallas.ops.tpu import splash_attention as of  # not on other platforms: it takes a while

    mask = of.MultiHeadMask([of.FullMask((n, m))] * heads)
    blocks = of.BlockSizes(block_q=SPLASH_BLOCK, block_kv=SPLASH_BLOCK)
    kernel = of.make_splash_mha(mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret)
    q, k, v = (a.swapaxes(1, 2) for a in (q * d**-0.5, k, v))  # the kernel does not scale
    return jax.vmap(kernel)(q, k, v).swapaxes(1, 2)
