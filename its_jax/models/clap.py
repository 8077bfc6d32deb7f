"""`ClapModel`: sounds and texts to one space, in which what belongs together lies close (Wu et al. 2023).

The audio tower is HTSAT (Chen et al. 2022), a Swin transformer (Liu et al. 2021) on a log-mel spectrogram that is
folded to a square; its variant without fusion of long sounds. The text tower is in `roberta.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from its_jax.config_fields import BOOKKEEPING, check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.clap_text import ClapTextConfig, ClapTextModel, Output
from its_jax.models.layers import List, layer_norm, unit

_NOT_FUSED = {"enable_fusion": (False,), "fusion_type": (None,), "patch_embed_input_channels": (1,)}
_FIXED = {"model_type": ("clap_audio_model",), "hidden_act": ("gelu",), "projection_hidden_act": ("relu",)}
_FIXED |= {"flatten_patch_embeds": (True,), "enable_patch_layer_norm": (True,), "qkv_bias": (True,)}
_FIXED |= {"is_encoder_decoder": (False,), "chunk_size_feed_forward": (0,)} | _NOT_FUSED
# Training, classes, fusion; what `ClapConfig` has for both towers, and what follows from the depths.
_IGNORED = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "num_classes", "aff_block_r")
_IGNORED += ("fusion_num_hidden_layers", "projection_hidden_size", "projection_dim", "num_hidden_layers")
_EDGE = 1e-5  # of the norms that have no epsilon in the config: PyTorch's default
_APART = -100.0  # added to the scores of tokens that lie together only because the picture was rolled


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
    def from_dict(cls, raw):
        """Reads a parsed config; raises `UserError` for what the model cannot do."""
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
        """Of the spectrogram that is folded to a square."""
        return self.spec_size * (self.spec_size // self.num_mel_bins)


@dataclasses.dataclass(frozen=True)
class ClapConfig:
    """Both towers' configs, and the size of their common space."""

    text_config: ClapTextConfig
    audio_config: ClapAudioConfig
    projection_dim: int = 512

    @classmethod
    def from_dict(cls, raw):
        """Reads a parsed `config.json`; raises `UserError` for what the model cannot do."""
        fixed = {"model_type": ("clap",), "projection_hidden_act": ("relu",), "is_encoder_decoder": (False,)}
        # Sizes of the whole are copies of the text tower's, for training.
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
    """Over the last axis, with the statistics of training."""

    def __init__(self, features, *, dtype, param_dtype, rngs):
        self.scale, self.running_var = (nnx.Param(jnp.ones(features, param_dtype)) for _ in range(2))
        self.bias, self.running_mean = (nnx.Param(jnp.zeros(features, param_dtype)) for _ in range(2))

    def __call__(self, x):
        names = ("scale", "bias", "running_mean", "running_var")
        scale, bias, mean, var = (getattr(self, name)[...].astype(jnp.float32) for name in names)
        return (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(var + _EDGE) * scale + bias


class PatchEmbed(nnx.Module):
    def __init__(self, config, **kw):
        size = (config.patch_size,) * 2
        self.proj = nnx.Conv(1, config.patch_embeds_hidden_size, size, size, padding="VALID", **kw)
        self.norm = layer_norm(config.patch_embeds_hidden_size, _EDGE, **kw)

    def __call__(self, x):
        return self.norm(self.proj(x))


class WindowAttention(nnx.Module):
    """Attention of the tokens of a window to each other, biased by how they lie."""

    def __init__(self, features, heads, window, *, param_dtype, **kw):
        self.heads, self.window = heads, window
        kw |= {"param_dtype": param_dtype}
        self.query, self.key, self.value = (nnx.Linear(features, features, **kw) for _ in range(3))
        self.relative_position_bias_table = nnx.Param(jnp.zeros(((2 * window - 1) ** 2, heads), param_dtype))

    def __call__(self, x, apart):
        """`[b, windows, n, features]`, and what is added to the scores `[windows, 1, n, n]`."""
        q, k, v = (p(x).reshape(*x.shape[:3], self.heads, -1) for p in (self.query, self.key, self.value))
        scores = jnp.einsum("bwnhd,bwmhd->bwhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        bias = self.relative_position_bias_table[...].astype(jnp.float32)[relative_places(self.window)]
        weights = jax.nn.softmax(scores + jnp.moveaxis(bias, -1, 0) + apart, axis=-1).astype(v.dtype)
        return jnp.einsum("bwhnm,bwmhd->bwnhd", weights, v).reshape(x.shape)


def relative_places(window):
    """`[n, n]`: the row of the table for each pair of a window's tokens, by the distance of rows and columns."""
    rows, columns = (place.reshape(-1) for place in np.mgrid[:window, :window])
    apart = [place[:, None] - place + window - 1 for place in (rows, columns)]
    return apart[0] * (2 * window - 1) + apart[1]


class Attention(nnx.Module):
    def __init__(self, features, heads, window, **kw):
        self.self = WindowAttention(features, heads, window, **kw)
        self.output = Output(features, features, **kw)

    def __call__(self, x, apart):
        return self.output(self.self(x, apart))


class Intermediate(nnx.Module):
    def __init__(self, features, hidden, **kw):
        self.dense = nnx.Linear(features, hidden, **kw)

    def __call__(self, x):
        return jax.nn.gelu(self.dense(x), approximate=False)


class Block(nnx.Module):
    """Attention in windows, in every other block of a picture that is rolled by half a window."""

    def __init__(self, config, features, heads, shift, **kw):
        self.window, self.shift = config.window_size, shift
        self.layernorm_before = layer_norm(features, config.layer_norm_eps, **kw)
        self.attention = Attention(features, heads, config.window_size, **kw)
        self.layernorm_after = layer_norm(features, config.layer_norm_eps, **kw)
        hidden = int(config.mlp_ratio * features)
        self.intermediate = Intermediate(features, hidden, **kw)
        self.output = Output(hidden, features, **kw)

    def __call__(self, x):
        rolled = jnp.roll(self.layernorm_before(x), (-self.shift, -self.shift), axis=(1, 2))
        attended = self.attention(windows_of(rolled, self.window), self._apart(*x.shape[1:3]))
        attended = picture_of(attended, x.shape, self.window)
        x = x + jnp.roll(attended, (self.shift, self.shift), axis=(1, 2))
        return x + self.output(self.intermediate(self.layernorm_after(x)))

    def _apart(self, rows, columns):
        """`[windows, 1, n, n]`: what is added to scores of tokens that were not beside each other."""
        if not self.shift:
            return 0.0
        regions = [(np.arange(n) >= n - self.window) * 1 + (np.arange(n) >= n - self.shift) for n in (rows, columns)]
        region = windows_of(jnp.asarray(regions[0][:, None] * 3 + regions[1])[None, ..., None], self.window)[0, ..., 0]
        return jnp.where(region[:, None] != region[:, :, None], _APART, 0.0)[:, None]


def windows_of(x, window):
    """`[b, rows, columns, c]` -> `[b, windows, window * window, c]`."""
    b, rows, columns, c = x.shape
    x = x.reshape(b, rows // window, window, columns // window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, window * window, c)


def picture_of(x, shape, window):
    """The inverse of `windows_of`."""
    b, rows, columns, c = shape
    x = x.reshape(b, rows // window, columns // window, window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


class PatchMerging(nnx.Module):
    """Four neighbours to one token of twice the features."""

    def __init__(self, features, **kw):
        self.norm = layer_norm(4 * features, _EDGE, **kw)
        self.reduction = nnx.Linear(4 * features, 2 * features, use_bias=False, **kw)

    def __call__(self, x):
        four = [x[:, row::2, column::2] for column in range(2) for row in range(2)]
        return self.reduction(self.norm(jnp.concatenate(four, axis=-1)))


class Stage(nnx.Module):
    def __init__(self, config, i, **kw):
        features, heads = config.patch_embeds_hidden_size * 2**i, config.num_attention_heads[i]
        # The coarsest picture may be a single window: it is not rolled.
        rolls = config.spec_size // config.patch_size // 2**i > config.window_size
        shifts = [(j % 2) * rolls * config.window_size // 2 for j in range(config.depths[i])]
        self.blocks = List([Block(config, features, heads, shift, **kw) for shift in shifts])
        self.downsample = PatchMerging(features, **kw) if i < len(config.depths) - 1 else None

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class AudioEncoder(nnx.Module):
    def __init__(self, config, **kw):
        self.config = config
        self.batch_norm = BatchNorm(config.num_mel_bins, **kw)
        self.patch_embed = PatchEmbed(config, **kw)
        self.layers = List([Stage(config, i, **kw) for i in range(len(config.depths))])
        self.norm = layer_norm(config.hidden_size, _EDGE, **kw)

    def __call__(self, log_mel):
        x = self.patch_embed(folded(self.batch_norm(log_mel), self.config)[..., None])
        for stage in self.layers:
            x = stage(x)
        return self.norm(x).mean(axis=(1, 2))


def folded(log_mel, config):
    """`[b, frames, mels]` -> the square `[b, spec_size, spec_size]`: stretches of time, one above the other."""
    b, frames, mels = log_mel.shape
    if frames < config.frames:
        log_mel = jnp.einsum("nf,bfm->bnm", stretch(frames, config.frames), log_mel, precision="highest")
    turns = config.spec_size // mels
    return log_mel.reshape(b, turns, -1, mels).swapaxes(2, 3).reshape(b, config.spec_size, -1)


def stretch(n, to):
    """`[to, n]`: bicubic interpolation as PyTorch has it (a = -0.75), with the ends on each other."""
    a = -0.75
    places = np.arange(to) * (n - 1) / (to - 1)
    matrix = np.zeros((to, n), np.float32)
    for offset in range(-1, 3):
        source = np.floor(places).astype(int) + offset
        d = np.abs(places - source)
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        np.add.at(matrix, (np.arange(to), np.clip(source, 0, n - 1)), np.where(d <= 1, near, far))
    return matrix


class ClapAudioModel(nnx.Module):
    def __init__(self, config, **kw):
        self.audio_encoder = AudioEncoder(config, **kw)

    def __call__(self, log_mel):
        return self.audio_encoder(log_mel)


class ProjectionLayer(nnx.Module):
    def __init__(self, features_in, features_out, **kw):
        self.linear1 = nnx.Linear(features_in, features_out, **kw)
        self.linear2 = nnx.Linear(features_out, features_out, **kw)

    def __call__(self, x):
        return self.linear2(jax.nn.relu(self.linear1(x)))


class ClapModel(nnx.Module):
    """Both towers with their projections, named as in transformers.

    Args:
      config: a `ClapConfig`.
      dtype: of the activations. param_dtype: of the weights.
    """

    def __init__(self, config, *, dtype=jnp.float32, param_dtype=jnp.float32, rngs):
        self.config = config
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.text_model = ClapTextModel(config.text_config, **kw)
        self.text_projection = ProjectionLayer(config.text_config.hidden_size, config.projection_dim, **kw)
        self.audio_model = ClapAudioModel(config.audio_config, **kw)
        self.audio_projection = ProjectionLayer(config.audio_config.hidden_size, config.projection_dim, **kw)
        self.logit_scale_a, self.logit_scale_t = (nnx.Param(jnp.zeros((), param_dtype)) for _ in range(2))

    def embed_text(self, input_ids):
        """int `[b, n]`, padded -> float32 `[b, projection_dim]` of length 1."""
        return unit(self.text_projection(self.text_model(input_ids)))

    def embed_sound(self, log_mel):
        """Log-mel spectrograms in dB `[b, frames, mels]`, at most `audio_config.frames` of them -> float32
        `[b, projection_dim]` of length 1."""
        return unit(self.audio_projection(self.audio_model(log_mel)))
