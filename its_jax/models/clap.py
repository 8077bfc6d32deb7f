"""`ClapModel`: embeddings of audio and texts in one space, close if they match (Wu et al. 2023).

The audio tower is HTSAT (Chen et al. 2022), a Swin transformer (Liu et al. 2021) on a log-mel spectrogram, which is
folded into a square image. This is the variant without fusion of long recordings. The text tower is in `clap_text.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from its_jax.config_fields import BOOKKEEPING, check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.clap_text import ClapTextConfig, ClapTextModel, Output
from its_jax.models.layers import List, layer_norm, normalize

_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("clap_audio_model",),
    "hidden_act": ("gelu",),
    "projection_hidden_act": ("relu",),
}
_FIXED |= {"flatten_patch_embeds": (True,), "enable_patch_layer_norm": (True,), "qkv_bias": (True,)}
_FIXED |= {"is_encoder_decoder": (False,), "chunk_size_feed_forward": (0,)}
_FIXED |= {"enable_fusion": (False,), "fusion_type": (None,), "patch_embed_input_channels": (1,)}
# These fields concern training, classes and fusion, or repeat those of `ClapConfig` and the number of `depths`.
_IGNORED = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "num_classes", "aff_block_r")
_IGNORED += ("fusion_num_hidden_layers", "projection_hidden_size", "projection_dim", "num_hidden_layers")
_EPSILON = 1e-5  # PyTorch's default, for norms that have no epsilon in the config
_MASK = -100.0  # added to the scores of tokens that are adjacent only because the image was rolled


@dataclasses.dataclass(frozen=True)
class ClapAudioConfig:
    """The fields of `audio_config` that shape the model; defaults are those of transformers."""

    window_size: int = 8
    num_mel_bins: int = 64
    spec_size: int = 256
    patch_size: int = 4
    patch_stride: tuple[int, ...] = (4, 4)
    patch_embeds_hidden_size: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_attention_heads: tuple[int, ...] = (4, 8, 16, 32)
    hidden_size: int = 768
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ClapAudioConfig":
        """Reads a parsed config; raises `UserError` for what the model does not support."""
        config = read_fields(cls, raw, fixed=_FIXED, ignored=BOOKKEEPING + _IGNORED)
        check_sizes(config, *(field.name for field in dataclasses.fields(cls) if field.type is int))
        check_sizes(config, "depths", "num_attention_heads")
        config._check()
        return config

    def _check(self):
        stages = len(self.depths)
        finest, last = self.spec_size // self.patch_size, self.patch_embeds_hidden_size * 2 ** (stages - 1)
        wrong = {
            "patch_stride": self.patch_stride != (self.patch_size,) * 2,
            "num_attention_heads": len(self.num_attention_heads) != stages
            or any(self.patch_embeds_hidden_size * 2**i % heads for i, heads in enumerate(self.num_attention_heads)),
            "spec_size": self.spec_size % (self.patch_size * self.window_size * 2 ** (stages - 1)) != 0
            or self.spec_size % self.num_mel_bins != 0,
            "window_size": finest < self.window_size * 2 ** (stages - 1),
            "hidden_size": self.hidden_size != last,
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            raise UserError(f"ClapAudioConfig: {name}={getattr(self, name)!r} does not fit the other sizes")

    @property
    def frames(self) -> int:
        """Returns the number of frames that fill the square image."""
        return self.spec_size * (self.spec_size // self.num_mel_bins)


@dataclasses.dataclass(frozen=True)
class ClapConfig:
    """The configs of both towers, and the size of their common space."""

    text_config: ClapTextConfig
    audio_config: ClapAudioConfig
    projection_dim: int = 512

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ClapConfig":
        """Reads a parsed `config.json`; raises `UserError` for what the model does not support."""
        fixed = {"model_type": ("clap",), "projection_hidden_act": ("relu",), "is_encoder_decoder": (False,)}
        # The sizes of the whole model are copies of the text tower's, for training.
        ignored = (
            *BOOKKEEPING,
            "logit_scale_init_value",
            "hidden_size",
            "num_hidden_layers",
            "chunk_size_feed_forward",
        )
        config = read_fields(cls, raw, fixed=fixed, ignored=ignored)
        check_sizes(config, "projection_dim")
        return config


class BatchNorm(nnx.Module):
    """Batch normalization over the last axis, with the statistics of training."""

    def __init__(self, features: int, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.scale, self.running_var = (nnx.Param(jnp.ones(features, param_dtype)) for _ in range(2))
        self.bias, self.running_mean = (nnx.Param(jnp.zeros(features, param_dtype)) for _ in range(2))

    def __call__(self, x: Array) -> Array:
        names = ("scale", "bias", "running_mean", "running_var")
        scale, bias, mean, var = (getattr(self, name)[...].astype(jnp.float32) for name in names)
        return (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(var + _EPSILON) * scale + bias


class PatchEmbed(nnx.Module):
    """The embeddings of patches `[b, rows, columns, patch_embeds_hidden_size]`."""

    def __init__(self, config: ClapAudioConfig, **kw: Any) -> None:
        size = (config.patch_size,) * 2
        self.proj = nnx.Conv(1, config.patch_embeds_hidden_size, size, size, padding="VALID", **kw)
        self.norm = layer_norm(config.patch_embeds_hidden_size, _EPSILON, **kw)

    def __call__(self, x: Array) -> Array:
        return self.norm(self.proj(x))


class WindowAttention(nnx.Module):
    """Attention among the tokens of a window, biased by their relative positions."""

    def __init__(self, features: int, heads: int, window: int, *, param_dtype: DTypeLike, **kw: Any) -> None:
        self.heads, self.window = heads, window
        kw |= {"param_dtype": param_dtype}
        self.query, self.key, self.value = (nnx.Linear(features, features, **kw) for _ in range(3))
        self.relative_position_bias_table = nnx.Param(jnp.zeros(((2 * window - 1) ** 2, heads), param_dtype))

    def __call__(self, x: Array, mask: Array | float) -> Array:
        """Computes attention in `[b, windows, n, features]`; `mask` `[windows, 1, n, n]` is added to the scores."""
        q, k, v = (p(x).reshape(*x.shape[:3], self.heads, -1) for p in (self.query, self.key, self.value))
        scores = jnp.einsum("bwnhd,bwmhd->bwhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        bias = self.relative_position_bias_table[...].astype(jnp.float32)[relative_positions(self.window)]
        weights = jax.nn.softmax(scores + jnp.moveaxis(bias, -1, 0) + mask, axis=-1).astype(v.dtype)
        return jnp.einsum("bwhnm,bwmhd->bwnhd", weights, v).reshape(x.shape)


def relative_positions(window: int) -> np.ndarray:
    """Returns the row of the bias table for each pair of tokens in a window, int `[n, n]` with n = window^2."""
    rows, columns = (index.reshape(-1) for index in np.mgrid[:window, :window])
    row_offset, column_offset = (index[:, None] - index + window - 1 for index in (rows, columns))
    return row_offset * (2 * window - 1) + column_offset


class Attention(nnx.Module):
    """Window attention with its output projection."""

    def __init__(self, features: int, heads: int, window: int, **kw: Any) -> None:
        self.self = WindowAttention(features, heads, window, **kw)
        self.output = Output(features, features, **kw)

    def __call__(self, x: Array, mask: Array | float) -> Array:
        return self.output(self.self(x, mask))


class Intermediate(nnx.Module):
    """The first half of the feed-forward layer."""

    def __init__(self, features: int, hidden: int, **kw: Any) -> None:
        self.dense = nnx.Linear(features, hidden, **kw)

    def __call__(self, x: Array) -> Array:
        return jax.nn.gelu(self.dense(x), approximate=False)


class Block(nnx.Module):
    """A transformer layer with attention in windows, of an image that is rolled by `shift` pixels meanwhile."""

    def __init__(self, config: ClapAudioConfig, features: int, heads: int, shift: int, **kw: Any) -> None:
        self.window, self.shift = config.window_size, shift
        self.layernorm_before = layer_norm(features, config.layer_norm_eps, **kw)
        self.attention = Attention(features, heads, config.window_size, **kw)
        self.layernorm_after = layer_norm(features, config.layer_norm_eps, **kw)
        hidden = int(config.mlp_ratio * features)
        self.intermediate = Intermediate(features, hidden, **kw)
        self.output = Output(hidden, features, **kw)

    def __call__(self, x: Array) -> Array:
        rolled = jnp.roll(self.layernorm_before(x), (-self.shift, -self.shift), axis=(1, 2))
        attended = self.attention(to_windows(rolled, self.window), self._mask(*x.shape[1:3]))
        attended = from_windows(attended, x.shape, self.window)
        x = x + jnp.roll(attended, (self.shift, self.shift), axis=(1, 2))
        return x + self.output(self.intermediate(self.layernorm_after(x)))

    def _mask(self, rows, columns):
        """Returns `[windows, 1, n, n]`, which excludes tokens that were not adjacent before the roll."""
        if not self.shift:
            return 0.0
        regions = [(np.arange(n) >= n - self.window) * 1 + (np.arange(n) >= n - self.shift) for n in (rows, columns)]
        region = to_windows(jnp.asarray(regions[0][:, None] * 3 + regions[1])[None, ..., None], self.window)[0, ..., 0]
        return jnp.where(region[:, None] != region[:, :, None], _MASK, 0.0)[:, None]


def to_windows(x: Array, window: int) -> Array:
    """Cuts an image `[b, rows, columns, c]` into windows `[b, windows, window * window, c]`."""
    b, rows, columns, c = x.shape
    x = x.reshape(b, rows // window, window, columns // window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, window * window, c)


def from_windows(x: Array, shape: tuple[int, ...], window: int) -> Array:
    """Assembles an image of a shape from its windows, the inverse of `to_windows`."""
    b, rows, columns, c = shape
    x = x.reshape(b, rows // window, columns // window, window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


class PatchMerging(nnx.Module):
    """The merger of 2 x 2 tokens into one of twice the features."""

    def __init__(self, features: int, **kw: Any) -> None:
        self.norm = layer_norm(4 * features, _EPSILON, **kw)
        self.reduction = nnx.Linear(4 * features, 2 * features, use_bias=False, **kw)

    def __call__(self, x: Array) -> Array:
        four = [x[:, row::2, column::2] for column in range(2) for row in range(2)]
        return self.reduction(self.norm(jnp.concatenate(four, axis=-1)))


class Stage(nnx.Module):
    """The layers of one resolution; every other one works on a rolled image."""

    def __init__(self, config: ClapAudioConfig, i: int, **kw: Any) -> None:
        features, heads = config.patch_embeds_hidden_size * 2**i, config.num_attention_heads[i]
        # The coarsest image may be a single window, which is not rolled.
        rolls = config.spec_size // config.patch_size // 2**i > config.window_size
        shifts = [(j % 2) * rolls * config.window_size // 2 for j in range(config.depths[i])]
        self.blocks = List([Block(config, features, heads, shift, **kw) for shift in shifts])
        self.downsample = PatchMerging(features, **kw) if i < len(config.depths) - 1 else None

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class AudioEncoder(nnx.Module):
    """HTSAT: the patches, the stages, and the mean over the remaining tokens."""

    def __init__(self, config: ClapAudioConfig, **kw: Any) -> None:
        self.config = config
        self.batch_norm = BatchNorm(config.num_mel_bins, **kw)
        self.patch_embed = PatchEmbed(config, **kw)
        self.layers = List([Stage(config, i, **kw) for i in range(len(config.depths))])
        self.norm = layer_norm(config.hidden_size, _EPSILON, **kw)

    def __call__(self, log_mel: Array) -> Array:
        x = self.patch_embed(fold(self.batch_norm(log_mel), self.config)[..., None])
        for stage in self.layers:
            x = stage(x)
        return self.norm(x).mean(axis=(1, 2))


def fold(log_mel: Array, config: ClapAudioConfig) -> Array:
    """Stacks segments of a spectrogram `[b, frames, mels]` into a square image `[b, spec_size, spec_size]`."""
    b, frames, mels = log_mel.shape
    if frames < config.frames:
        log_mel = jnp.einsum("nf,bfm->bnm", bicubic_matrix(frames, config.frames), log_mel, precision="highest")
    segments = config.spec_size // mels
    return log_mel.reshape(b, segments, -1, mels).swapaxes(2, 3).reshape(b, config.spec_size, -1)


def bicubic_matrix(n: int, size: int) -> np.ndarray:
    """Returns PyTorch's bicubic interpolation (a = -0.75) with aligned ends, float32 `[size, n]`."""
    a = -0.75
    positions = np.arange(size) * (n - 1) / (size - 1)
    matrix = np.zeros((size, n), np.float32)
    for offset in range(-1, 3):
        source = np.floor(positions).astype(int) + offset
        d = np.abs(positions - source)
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        np.add.at(matrix, (np.arange(size), np.clip(source, 0, n - 1)), np.where(d <= 1, near, far))
    return matrix


class ClapAudioModel(nnx.Module):
    """The audio tower, under the name of transformers."""

    def __init__(self, config: ClapAudioConfig, **kw: Any) -> None:
        self.audio_encoder = AudioEncoder(config, **kw)

    def __call__(self, log_mel: Array) -> Array:
        return self.audio_encoder(log_mel)


class ProjectionLayer(nnx.Module):
    """The two layers that project a tower's output to the common space."""

    def __init__(self, features_in: int, features_out: int, **kw: Any) -> None:
        self.linear1 = nnx.Linear(features_in, features_out, **kw)
        self.linear2 = nnx.Linear(features_out, features_out, **kw)

    def __call__(self, x: Array) -> Array:
        return self.linear2(jax.nn.relu(self.linear1(x)))


class ClapModel(nnx.Module):
    """Both towers with their projections, with the attribute names of transformers.

    Args:
      config: the sizes.
      dtype: dtype of the activations.
      param_dtype: dtype of the weights.
      rngs: for random weights.
    """

    def __init__(
        self,
        config: ClapConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        kw: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.text_model = ClapTextModel(config.text_config, **kw)
        self.text_projection = ProjectionLayer(config.text_config.hidden_size, config.projection_dim, **kw)
        self.audio_model = ClapAudioModel(config.audio_config, **kw)
        self.audio_projection = ProjectionLayer(config.audio_config.hidden_size, config.projection_dim, **kw)
        self.logit_scale_a, self.logit_scale_t = (nnx.Param(jnp.zeros((), param_dtype)) for _ in range(2))

    def embed_text(self, input_ids: Array) -> Array:
        """Embeds texts, padded int `[b, n]`, as float32 `[b, projection_dim]` of length 1."""
        return normalize(self.text_projection(self.text_model(input_ids)))

    def embed_audio(self, log_mel: Array) -> Array:
        """Embeds log-mel spectrograms as float32 `[b, projection_dim]` of length 1.

        Args:
          log_mel: `[b, frames, mels]` in dB, with at most `audio_config.frames` frames.
        """
        return normalize(self.audio_projection(self.audio_model(log_mel)))
