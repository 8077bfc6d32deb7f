"""`UNet2DConditionModel`: the noise predictor of Stable Diffusion 1.x and of Auffusion."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from its_jax.config_fields import check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.layers import (
    Attention,
    Downsample2D,
    FeedForward,
    KeysValues,
    List,
    ResnetBlock2D,
    TimestepEmbedding,
    Upsample2D,
    conv1x1,
    conv3x3,
    group_norm,
    layer_norm,
    timestep_embedding,
)

_DOWN_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")

# These settings change the model and are supported only at the values of SD 1.x.
_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "projection_class_embeddings_input_dim": (None,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}

# These settings have no effect here, because they concern training, EMA, or parts that `_FIXED` excludes.
# `upcast_attention` requests float32 attention scores, which ours always are.
_IGNORED = (
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "decay",
    "dropout",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "sample_size",
    "upcast_attention",
    "update_after_step",
    "use_ema_warmup",
)

_SIZES = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "transformer_layers_per_block",
    "attention_head_dim",
    "cross_attention_dim",
    "norm_num_groups",
)


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The fields of `unet/config.json` that shape the model; defaults are those of diffusers."""

    in_channels: int = 4
    out_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    transformer_layers_per_block: int | tuple[int, ...] = 1
    attention_head_dim: int | tuple[int, ...] = 8  # the number of heads, a misnomer that diffusers keeps
    cross_attention_dim: int = 1280
    use_linear_projection: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "UNetConfig":
        """Reads a parsed `config.json`; raises `UserError` for what the model does not support."""
        config = read_fields(cls, raw, fixed=_FIXED, ignored=_IGNORED)
        check_sizes(config, *_SIZES)
        for name in ("layers_per_block", "transformer_layers_per_block"):
            config.per_block(name)
        for name, known in (("down_block_types", _DOWN_BLOCKS), ("up_block_types", _UP_BLOCKS)):
            for block in getattr(config, name):
                if block not in known:
                    raise UserError(f"UNetConfig: {name} has {block!r}; supported are {', '.join(known)}")
            if len(getattr(config, name)) != len(config.block_out_channels):
                raise UserError(f"UNetConfig: {name} needs one entry for each of block_out_channels")
        for channels, heads in zip(config.block_out_channels, config.per_block("attention_head_dim"), strict=True):
            if channels % heads:
                raise UserError(f"UNetConfig: {channels} channels cannot be divided among {heads} attention heads")
            if channels % config.norm_num_groups:
                raise UserError(f"UNetConfig: {channels} channels are not a multiple of norm_num_groups")
        return config

    def per_block(self, name: str) -> tuple[int, ...]:
        """Returns a setting, which may be one number for all resolutions, as one number per resolution."""
        value = getattr(self, name)
        values = value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)
        if len(values) != len(self.block_out_channels):
            raise UserError(f"UNetConfig: {name} needs one entry for each of block_out_channels")
        return values


class BasicTransformerBlock(nnx.Module):
    """Self-attention, attention to the text, and a feed-forward layer, each normalized first, as residuals."""

    def __init__(self, features: int, heads: int, text_features: int, **kw: Any) -> None:
        self.norm1 = layer_norm(features, 1e-5, **kw)
        self.attn1 = Attention(features, heads, **kw)
        self.norm2 = layer_norm(features, 1e-5, **kw)
        self.attn2 = Attention(features, heads, context_features=text_features, **kw)
        self.norm3 = layer_norm(features, 1e-5, **kw)
        self.ff = FeedForward(features, **kw)

    def __call__(self, x: Array, keys_values: KeysValues) -> Array:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), keys_values)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nnx.Module):
    """Transformer blocks over the pixels of a feature map, as a residual."""

    def __init__(self, features: int, heads: int, layers: int, config: UNetConfig, **kw: Any) -> None:
        project = nnx.Linear if config.use_linear_projection else conv1x1
        self.norm = group_norm(features, config.norm_num_groups, 1e-6, **kw)
        self.proj_in = project(features, features, **kw)
        self.transformer_blocks = List(
            [BasicTransformerBlock(features, heads, config.cross_attention_dim, **kw) for _ in range(layers)]
        )
        self.proj_out = project(features, features, **kw)

    def __call__(self, x: Array, text: Iterator[KeysValues]) -> Array:
        b, h, w, c = x.shape
        y = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        for block in self.transformer_blocks:
            y = block(y, next(text))
        return x + self.proj_out(y.reshape(b, h, w, c))


class DownBlock(nnx.Module):
    """`DownBlock2D`, or, with a `transformer`, `CrossAttnDownBlock2D`."""

    def __init__(
        self, features_in: int, features_out: int, layers: int, resnet: Any, transformer: Any, last: bool, **kw: Any
    ) -> None:
        sizes = [features_in] + [features_out] * (layers - 1)
        self.resnets = List([resnet(size, features_out) for size in sizes])
        self.attentions = List([transformer(features_out) for _ in sizes]) if transformer else None
        self.downsamplers = None if last else List([Downsample2D(features_out, **kw)])

    def __call__(self, x: Array, time: Iterator[Array], text: Iterator[KeysValues]) -> tuple[Array, list[Array]]:
        """Returns the output and the list of skips."""
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, next(time))
            if self.attentions is not None:
                x = self.attentions[i](x, text)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock(nnx.Module):
    """`UNetMidBlock2DCrossAttn`."""

    def __init__(self, features: int, resnet: Any, transformer: Any) -> None:
        self.resnets = List([resnet(features, features) for _ in range(2)])
        self.attentions = List([transformer(features)])

    def __call__(self, x: Array, time: Iterator[Array], text: Iterator[KeysValues]) -> Array:
        x = self.resnets[0](x, next(time))
        x = self.attentions[0](x, text)
        return self.resnets[1](x, next(time))


class UpBlock(nnx.Module):
    """`UpBlock2D`, or, with a `transformer`, `CrossAttnUpBlock2D`; `skips` are the channels of its skips."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        skips: Sequence[int],
        resnet: Any,
        transformer: Any,
        last: bool,
        **kw: Any,
    ) -> None:
        sizes = [features_in] + [features_out] * (len(skips) - 1)
        self.resnets = List([resnet(size + skip, features_out) for size, skip in zip(sizes, skips, strict=True)])
        self.attentions = List([transformer(features_out) for _ in sizes]) if transformer else None
        self.upsamplers = None if last else List([Upsample2D(features_out, **kw)])

    def __call__(
        self,
        x: Array,
        skips: list[Array],
        time: Iterator[Array],
        text: Iterator[KeysValues],
        size: tuple[int, ...] | None,
    ) -> Array:
        """Computes the block with skips that it pops from the list; `size` is the height and width of its output."""
        x = self.last(self.all_but_last(x, skips, time, text), skips.pop(), time, text)
        return x if self.upsamplers is None else self.upsamplers[0](x, size)

    def all_but_last(self, x: Array, skips: list[Array], time: Iterator[Array], text: Iterator[KeysValues]) -> Array:
        """Computes all layers except the last one and the upsampler."""
        for i in range(len(self.resnets) - 1):
            x = self._layer(i, x, skips.pop(), time, text)
        return x

    def last(self, x: Array, skip: Array, time: Iterator[Array], text: Iterator[KeysValues]) -> Array:
        """Computes the last layer."""
        return self._layer(len(self.resnets) - 1, x, skip, time, text)

    def _layer(self, i, x, skip, time, text):
        x = self.resnets[i](jnp.concatenate([x, skip], axis=-1), next(time))
        return x if self.attentions is None else self.attentions[i](x, text)


class UNet2DConditionModel(nnx.Module):
    """The noise predictor for latents, given the timestep and a text.

    Args:
      config: the sizes.
      dtype: dtype of the activations.
      param_dtype: dtype of the weights.
      rngs: for random weights.
    """

    def __init__(
        self,
        config: UNetConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        kw: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config, self.dtype = config, dtype
        channels = config.block_out_channels
        n = len(channels)
        layers, heads = config.per_block("layers_per_block"), config.per_block("attention_head_dim")
        depth = config.per_block("transformer_layers_per_block")
        time_features = 4 * channels[0]
        resnet = functools.partial(
            ResnetBlock2D,
            groups=config.norm_num_groups,
            epsilon=config.norm_eps,
            time_features=time_features,
            **kw,
        )

        def transformer(i):
            return functools.partial(Transformer2DModel, heads=heads[i], layers=depth[i], config=config, **kw)

        self.conv_in = conv3x3(config.in_channels, channels[0], **kw)
        self.time_embedding = TimestepEmbedding(channels[0], time_features, **kw)

        down, skips = [], [channels[0]]
        for i, kind in enumerate(config.down_block_types):
            attention = transformer(i) if kind == "CrossAttnDownBlock2D" else None
            last = i == n - 1
            down.append(DownBlock(channels[max(i - 1, 0)], channels[i], layers[i], resnet, attention, last, **kw))
            skips += [channels[i]] * (layers[i] + (not last))
        self.down_blocks = List(down)

        self.mid_block = MidBlock(channels[-1], resnet, transformer(n - 1))

        up, features = [], channels[-1]
        for i, kind in zip(reversed(range(n)), config.up_block_types, strict=True):
            attention = transformer(i) if kind == "CrossAttnUpBlock2D" else None
            taken = [skips.pop() for _ in range(layers[i] + 1)]
            up.append(UpBlock(features, channels[i], taken, resnet, attention, i == 0, **kw))
            features = channels[i]
        self.up_blocks = List(up)

        self.conv_norm_out = group_norm(channels[0], config.norm_num_groups, config.norm_eps, **kw)
        self.conv_out = conv3x3(channels[0], config.out_channels, **kw)

    def __call__(self, x: Array, t: Array, text: Array) -> Array:
        """Predicts the noise.

        Args:
          x: latents `[b, h, w, in_channels]`.
          t: timesteps `[b]`.
          text: embedded texts `[b, n, cross_attention_dim]`.

        Returns:
          `[b, h, w, out_channels]` in the model's dtype.
        """
        return self.predict(x, self.project_time(t), self.project_text(text))

    def project_time(self, t: Array) -> list[Array]:
        """Computes the time embeddings of all ResNet blocks, `[b, channels]` each, from timesteps `[b]`."""
        config = self.config
        sinusoids = timestep_embedding(
            t,
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
        embedding = self.time_embedding(sinusoids.astype(self.dtype))
        return [resnet.project_time(embedding) for block in self._blocks for resnet in block.resnets]

    def project_text(self, text: Array) -> list[KeysValues]:
        """Computes the keys and values of all text attention layers, from texts `[b, n, cross_attention_dim]`."""
        text = text.astype(self.dtype)
        transformers = [model for block in self._blocks for model in block.attentions or ()]
        return [block.attn2.project(text) for model in transformers for block in model.transformer_blocks]

    @property
    def _blocks(self):
        return *self.down_blocks, self.mid_block, *self.up_blocks

    def predict(self, x: Array, time: Sequence[Array], text: Sequence[KeysValues]) -> Array:
        """Predicts the noise from the results of `project_time` and `project_text`.

        These can be computed once for all steps. Entries of `time` may be `[1, channels]` if all timesteps are equal.
        """
        return self.predict_with_features(x, time, text)[0]

    def predict_with_features(self, x: Array, time: Sequence[Array], text: Sequence[KeysValues]) -> tuple[Array, Array]:
        """Returns the noise, and the features that enter the last layer, `[b, h, w, channels]`.

        The features change little from step to step (DeepCache, arXiv 2312.00858).
        """
        times, texts = iter(time), iter(text)
        x = self.conv_in(x.astype(self.dtype))
        skips = [x]
        for block in self.down_blocks:
            x, more = block(x, times, texts)
            skips += more
        x = self.mid_block(x, times, texts)
        *inner_blocks, outer = self.up_blocks
        for block in inner_blocks:
            x = block(x, skips, times, texts, skips[-len(block.resnets) - 1].shape[1:3])
        features = outer.all_but_last(x, skips, times, texts)
        return self._to_noise(outer.last(features, skips.pop(), times, texts)), features

    def predict_from_features(
        self, x: Array, time: Sequence[Array], text: Sequence[KeysValues], features: Array
    ) -> Array:
        """Predicts the noise by the first convolution and the last layer only, from features of an earlier step."""
        outer, skip = self.up_blocks[-1], self.conv_in(x.astype(self.dtype))
        texts = len(outer.attentions[-1].transformer_blocks) if outer.attentions is not None else 0
        return self._to_noise(outer.last(features, skip, iter(time[-1:]), iter(text[len(text) - texts :])))

    def _to_noise(self, x):
        return self.conv_out(self.conv_norm_out(x, nnx.silu))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrecomputedUNet:
    """A UNet for `its_jax.diffusion.denoise`, with precomputed time embeddings.

    Texts are the results of `project_text`, and timesteps `t` `[b]` are equal for the whole batch.
    """

    unet: UNet2DConditionModel
    time: list[Array]  # `project_time` of all timesteps 0, 1, ..., `[timesteps, channels]` each

    def __call__(self, x: Array, t: Array, text: Sequence[KeysValues]) -> Array:
        """Predicts the noise in `x` `[b, h, w, channels]`."""
        return self.unet.predict(x, self._select_time(t), text)

    def predict_batch(self, x: Array, t: Array, text: Sequence[KeysValues]) -> Array:
        """Predicts the noise where each element of the batch has its own timestep."""
        return self.unet.predict(x, [table[t] for table in self.time], text)

    def with_features(self, x: Array, t: Array, text: Sequence[KeysValues]) -> tuple[Array, Array]:
        """Returns the noise, and inner features for `from_features`."""
        return self.unet.predict_with_features(x, self._select_time(t), text)

    def from_features(self, x: Array, t: Array, text: Sequence[KeysValues], features: Array) -> Array:
        """Predicts the noise from inner features of an earlier step."""
        return self.unet.predict_from_features(x, self._select_time(t), text, features)

    def _select_time(self, t):
        return [table[t[:1]] for table in self.time]
