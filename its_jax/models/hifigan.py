"""HiFi-GAN's `Generator` (Kong, Kim, Bae 2020): log-mel spectrograms to waveforms."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from its_jax.config_fields import check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.layers import List

_INNER_SLOPE = 0.1
_LAST_SLOPE = 0.01  # the original code uses PyTorch's default for leaky ReLU before the last convolution

# These settings concern training, except `num_freq`, which the original code never reads.
_IGNORED = (
    "adam_b1",
    "adam_b2",
    "batch_size",
    "dist_config",
    "fmax_for_loss",
    "learning_rate",
    "lr_decay",
    "num_freq",
    "num_gpus",
    "num_workers",
    "seed",
    "segment_size",
)
_SIZES = (
    "upsample_rates",
    "upsample_kernel_sizes",
    "upsample_initial_channel",
    "resblock_kernel_sizes",
    "num_mels",
    "sampling_rate",
    "n_fft",
    "hop_size",
    "win_size",
)


@dataclasses.dataclass(frozen=True)
class VocoderConfig:
    """The fields of `vocoder/config.json` that shape the model, and those of the mel front end that it expects.

    `n_fft`, `win_size` and `hop_size` are in samples, `fmin` and `fmax` in Hz. An `fmax` of None is half the sampling
    rate. `log_min` and `log_max` are the log-mel values of black and white, by default those of Auffusion.
    """

    resblock: str
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    upsample_initial_channel: int
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    num_mels: int
    sampling_rate: int
    n_fft: int
    hop_size: int
    win_size: int
    fmin: float = 0.0
    fmax: float | None = None
    log_min: float = math.log(1e-5)
    log_max: float = math.log(200.0)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "VocoderConfig":
        """Reads a parsed `config.json`; raises `UserError` for what the model does not support."""
        config = read_fields(cls, raw, ignored=_IGNORED)
        check_sizes(config, *_SIZES)
        stages = len(config.upsample_rates)
        if config.resblock not in ("1", "2"):
            raise UserError(f"VocoderConfig: resblock={config.resblock!r} is not supported, only '1' or '2'")
        if len(config.upsample_kernel_sizes) != stages:
            raise UserError("VocoderConfig: upsample_kernel_sizes must have one entry for each of upsample_rates")
        if any(k < rate for k, rate in zip(config.upsample_kernel_sizes, config.upsample_rates, strict=True)):
            raise UserError("VocoderConfig: none of upsample_kernel_sizes may be below its upsample rate")
        if len(config.resblock_dilation_sizes) != len(config.resblock_kernel_sizes):
            raise UserError(
                "VocoderConfig: resblock_dilation_sizes must have one entry for each of resblock_kernel_sizes"
            )
        if any(k % 2 == 0 for k in config.resblock_kernel_sizes):
            raise UserError("VocoderConfig: resblock_kernel_sizes must be odd, for the residual to fit")
        if config.upsample_initial_channel % 2**stages:
            raise UserError(f"VocoderConfig: upsample_initial_channel must be a multiple of {2**stages}")
        if config.hop_size != math.prod(config.upsample_rates):
            raise UserError(f"VocoderConfig: hop_size {config.hop_size} must be the product of upsample_rates")
        return config


def _conv(features_in, features_out, kernel_size, dilation=1, **kw):
    """Returns a convolution over time that keeps the length; `kernel_size` is odd."""
    padding = (kernel_size - 1) * dilation // 2
    return nnx.Conv(features_in, features_out, (kernel_size,), padding=padding, kernel_dilation=dilation, **kw)


class _ConvTranspose(nnx.ConvTranspose):
    """PyTorch's `ConvTranspose1d(..., padding=(kernel_size - stride) // 2)`, as a few matrix products.

    The output is `stride` times as long as the input, plus one sample if kernel size minus stride is odd. Sample
    m stride + s of the output before cropping is the sum over j of x[m - j] times tap j stride + s. Each product thus
    gives `stride` samples at once. The gradient of XLA's transposed convolution is ten times slower on a CPU.
    """

    def __init__(self, features_in: int, features_out: int, kernel_size: int, stride: int, **kw: Any) -> None:
        self.stride, self.taps = stride, -(-kernel_size // stride)
        super().__init__(features_in, features_out, (kernel_size,), strides=stride, transpose_kernel=True, **kw)

    def __call__(self, x: Array) -> Array:
        assert self.bias is not None
        kernel = self.kernel[...].astype(self.dtype)
        size, features_out, features_in = kernel.shape
        phases = jnp.pad(kernel, ((0, self.taps * self.stride - size), (0, 0), (0, 0)))
        phases = phases.reshape(self.taps, self.stride * features_out, features_in)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (self.taps - 1,) * 2, (0, 0)))
        length = x.shape[1] - self.taps + 1
        shifted = [x[:, self.taps - 1 - j :][:, :length] for j in range(self.taps)]
        y: Any = sum(jnp.einsum("bnc,oc->bno", x, w) for x, w in zip(shifted, phases, strict=True))
        y = y.reshape(len(x), -1, features_out)
        padding = (size - self.stride) // 2
        length = (length - self.taps) * self.stride + size - 2 * padding
        return y[:, padding : padding + length] + self.bias[...].astype(self.dtype)


class ResBlock1(nnx.Module):
    """Residual pairs of convolutions, the first of each pair dilated."""

    def __init__(self, features: int, kernel_size: int, dilations: Sequence[int], **kw: Any) -> None:
        self.convs1 = List([_conv(features, features, kernel_size, d, **kw) for d in dilations])
        self.convs2 = List([_conv(features, features, kernel_size, **kw) for _ in dilations])

    def __call__(self, x: Array) -> Array:
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            h = conv1(nnx.leaky_relu(x, _INNER_SLOPE))
            x = x + conv2(nnx.leaky_relu(h, _INNER_SLOPE))
        return x


class ResBlock2(nnx.Module):
    """Residual dilated convolutions, the lighter variant."""

    def __init__(self, features: int, kernel_size: int, dilations: Sequence[int], **kw: Any) -> None:
        self.convs = List([_conv(features, features, kernel_size, d, **kw) for d in dilations])

    def __call__(self, x: Array) -> Array:
        for conv in self.convs:
            x = x + conv(nnx.leaky_relu(x, _INNER_SLOPE))
        return x


class Generator(nnx.Module):
    """HiFi-GAN's generator without weight normalization, with the attribute names of the original.

    Args:
      config: the sizes.
      dtype: dtype of the activations.
      param_dtype: dtype of the weights.
      rngs: for random weights.
    """

    def __init__(
        self,
        config: VocoderConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.config, self.dtype = config, dtype
        kw: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        block = {"1": ResBlock1, "2": ResBlock2}[config.resblock]
        widths = [config.upsample_initial_channel >> i for i in range(len(config.upsample_rates) + 1)]
        kernels = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        ups = zip(widths[:-1], widths[1:], config.upsample_kernel_sizes, config.upsample_rates, strict=True)
        self.conv_pre = _conv(config.num_mels, widths[0], 7, **kw)
        self.ups = List([_ConvTranspose(*sizes, **kw) for sizes in ups])
        self.resblocks = List([block(width, k, d, **kw) for width in widths[1:] for k, d in kernels])
        self.conv_post = _conv(widths[-1], 1, 7, **kw)

    def __call__(self, log_mel: Array) -> Array:
        """Synthesizes waveforms, float32 `[b, frames * hop_size]` in [-1, 1], from `[b, frames, num_mels]` natural log.

        The waveforms are longer if kernel size minus stride is odd for any upsampling.
        """
        blocks = len(self.config.resblock_kernel_sizes)
        x = self.conv_pre(log_mel.astype(self.dtype))
        for i, up in enumerate(self.ups):
            x = up(nnx.leaky_relu(x, _INNER_SLOPE))
            x = sum(self.resblocks[i * blocks + j](x) for j in range(blocks)) / blocks
        x = self.conv_post(nnx.leaky_relu(x, _LAST_SLOPE))
        return jnp.tanh(x[..., 0].astype(jnp.float32))
