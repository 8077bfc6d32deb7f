"""`PixelUNet`: the noise predictor of both stages of DeepFloyd IF, on pixels (Imagen, Saharia et al. 2022).

diffusers calls it `UNet2DConditionModel`, like the UNet for latents in `unet.py`, but its structure differs. Here the
timestep and the text scale and shift normalized features, ResNet blocks change the resolution, and pixels attend to
themselves and to the text under one softmax. The second stage upscales the small image of the first. It receives that
image, with noise added, in its last input channels, and the timestep of that noise as `level`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from its_jax.config_fields import check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.layers import (
    Attention,
    GroupNorm,
    KeysValues,
    List,
    TimestepEmbedding,
    attend,
    conv1x1,
    conv3x3,
    group_norm,
    layer_norm,
    timestep_embedding,
)

# This block distinguishes it from a UNet for latents in a config.
MID_BLOCK = "UNetMidBlock2DSimpleCrossAttn"
_DOWN_BLOCKS = ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D")
_UP_BLOCKS = ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D")
_CROSS_GROUPS, _EPSILON = 32, 1e-5  # defaults of diffusers and PyTorch, for norms that the config does not specify

# These settings change the model and are supported only at the values of IF.
_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("gelu",),
    "addition_embed_type": ("text",),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": ("group_norm",),
    "dual_cross_attention": (False,),
    "encoder_hid_dim_type": ("text_proj",),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_type": (MID_BLOCK,),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "projection_class_embeddings_input_dim": (None,),
    "resnet_time_scale_shift": ("scale_shift",),
    "time_cond_proj_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
# A config without these fields means these values, which are not those of IF.
_DEFAULTS = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "cross_attention_norm": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_time_scale_shift": "default",
}
# These settings have no effect here, because they concern training or parts that no block has. `upcast_attention`
# requests float32 attention scores, which ours always are.
_IGNORED = (
    "addition_time_embed_dim",
    "downsample_padding",
    "dropout",
    "reverse_transformer_layers_per_block",
    "transformer_layers_per_block",
    "upcast_attention",
    "use_linear_projection",
)
_SIZES = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "attention_head_dim",
    "cross_attention_dim",
    "encoder_hid_dim",
    "addition_embed_type_num_heads",
    "norm_num_groups",
)


@dataclasses.dataclass(frozen=True)
class PixelUNetConfig:
    """The fields of IF's `unet/config.json` that shape the model; defaults are those of diffusers."""

    encoder_hid_dim: int
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    in_channels: int = 4
    out_channels: int = 4
    sample_size: int | None = None  # height and width of its training images in pixels; others are supported
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    attention_head_dim: int = 8  # features per head, as the name says; in `UNetConfig` it is the number of heads
    cross_attention_dim: int = 1280
    addition_embed_type_num_heads: int = 64
    class_embed_type: str | None = None
    time_embedding_dim: int | None = None
    time_embedding_act_fn: str | None = None
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: float = 1.0
    mid_block_scale_factor: float = 1.0
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "PixelUNetConfig":
        """Reads a parsed `config.json`; raises `UserError` for what the model does not support."""
        config = read_fields(cls, {**_DEFAULTS, **raw}, fixed=_FIXED, ignored=_IGNORED)
        check_sizes(config, *_SIZES)
        config._check()
        return config

    def _check(self):
        for name, known in (("class_embed_type", "timestep"), ("time_embedding_act_fn", "gelu")):
            if getattr(self, name) not in (None, known):
                raise UserError(
                    f"PixelUNetConfig: {name}={getattr(self, name)!r} is not supported, only None or {known!r}"
                )
        for name, known in (("down_block_types", _DOWN_BLOCKS), ("up_block_types", _UP_BLOCKS)):
            for block in getattr(self, name):
                if block not in known:
                    raise UserError(f"PixelUNetConfig: {name} has {block!r}; supported are {', '.join(known)}")
        for name in ("down_block_types", "up_block_types", "layers"):
            if len(getattr(self, name)) != len(self.block_out_channels):
                name = "layers_per_block" if name == "layers" else name
                raise UserError(f"PixelUNetConfig: {name} needs one entry for each of block_out_channels")
        attended = zip(self.block_out_channels, self.down_block_types, reversed(self.up_block_types), strict=True)
        heads = [n for n, *kinds in attended if any("Attn" in kind for kind in kinds)] + [self.block_out_channels[-1]]
        for features, divisor, name in (
            *((n, self.norm_num_groups, "norm_num_groups") for n in self.block_out_channels),
            *((n, self.attention_head_dim, "attention_head_dim") for n in heads),
            (self.cross_attention_dim, _CROSS_GROUPS, "groups of cross_attention_norm"),
            (self.encoder_hid_dim, self.addition_embed_type_num_heads, "addition_embed_type_num_heads"),
        ):
            if features % divisor:
                raise UserError(f"PixelUNetConfig: {features} features are not a multiple of {divisor}, the {name}")

    @property
    def layers(self) -> tuple[int, ...]:
        """Returns the number of layers of each resolution."""
        n = self.layers_per_block
        return n if isinstance(n, tuple) else (n,) * len(self.block_out_channels)

    @property
    def multiple(self) -> int:
        """Returns the number of which height and width of an image must be multiples."""
        return 2 ** (len(self.block_out_channels) - 1)


gelu: Callable[[Array], Array] = functools.partial(jax.nn.gelu, approximate=False)


class ResnetBlock2D(nnx.Module):
    """Two normalized 3 x 3 convolutions as a residual, with scales and shifts from the embedding of timestep and text.

    Args:
      divisor: divides the sum of the two branches.
      resize: changes the resolution of both branches, before the first convolution.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        config: PixelUNetConfig,
        time_features: int,
        divisor: float,
        resize: Callable[[Array], Array] = lambda x: x,
        **kw: Any,
    ) -> None:
        norm: Callable[..., GroupNorm] = functools.partial(
            group_norm, groups=config.norm_num_groups, epsilon=config.norm_eps, **kw
        )
        self.divisor, self.resize = divisor, resize
        self.norm1 = norm(features_in)
        self.conv1 = conv3x3(features_in, features_out, **kw)
        self.time_emb_proj = nnx.Linear(time_features, 2 * features_out, **kw)
        self.norm2 = norm(features_out)
        self.conv2 = conv3x3(features_out, features_out, **kw)
        self.conv_shortcut = conv1x1(features_in, features_out, **kw) if features_in != features_out else None

    def __call__(self, x: Array, embedding: Array) -> Array:
        """Computes the block for `[b, h, w, features_in]`, with the embedding `[b, time_features]`."""
        h = self.conv1(self.resize(self.norm1(x, gelu)))
        projected = self.time_emb_proj(embedding).astype(jnp.float32)[:, None, None]
        scale, shift = jnp.split(projected, 2, axis=-1)
        h = self.conv2(self.norm2(h, lambda y: gelu(y * (1 + scale) + shift)))
        x = self.resize(x)
        return (h + (x if self.conv_shortcut is None else self.conv_shortcut(x))) / self.divisor


def halve(x: Array) -> Array:
    """Halves the resolution by the mean of 2 x 2 pixels."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4), dtype=jnp.float32).astype(x.dtype)


def double(x: Array) -> Array:
    """Doubles the resolution by repeating pixels."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class AddedAttention(Attention):
    """Multi-head attention of pixels to a text and to themselves, under one softmax, as a residual."""

    def __init__(self, features: int, config: PixelUNetConfig, **kw: Any) -> None:
        super().__init__(features, features // config.attention_head_dim, qkv_bias=True, **kw)
        text = config.cross_attention_dim
        self.group_norm = group_norm(features, config.norm_num_groups, _EPSILON, **kw)
        self.norm_cross = group_norm(text, _CROSS_GROUPS, _EPSILON, **kw)
        self.add_k_proj = nnx.Linear(text, features, **kw)
        self.add_v_proj = nnx.Linear(text, features, **kw)

    def __call__(self, x: Array, keys_values: KeysValues) -> Array:  # type: ignore[override]
        """Computes the attention of pixels `[b, h, w, features]`, with the keys and values of the text."""
        pixels = self.group_norm(x).reshape(len(x), -1, x.shape[-1])
        q, k, v = (self._split(project(pixels)) for project in (self.to_q, self.to_k, self.to_v))
        k, v = (jnp.concatenate([text, own], axis=1) for text, own in zip(keys_values, (k, v), strict=True))
        return x + self.to_out[0](self.attend(q, k, v).reshape(pixels.shape)).reshape(x.shape)

    def project(self, text: Array) -> KeysValues:
        """Computes keys and values of texts `[b, n, cross_attention_dim]`, whose padding is not masked."""
        text = self.norm_cross(text[:, :, None])[:, :, 0]  # statistics of a group are over all tokens
        return self._split(self.add_k_proj(text)), self._split(self.add_v_proj(text))


class AttentionPooling(nnx.Module):
    """Pools tokens by attention, with their mean as the query and as an additional token."""

    def __init__(self, features: int, heads: int, *, param_dtype: DTypeLike, **kw: Any) -> None:
        kw |= {"param_dtype": param_dtype}
        self.heads = heads
        self.positional_embedding = nnx.Param(jnp.zeros((1, features), param_dtype))
        self.k_proj, self.q_proj, self.v_proj = (nnx.Linear(features, features, **kw) for _ in range(3))

    def __call__(self, x: Array) -> Array:
        """Pools `[b, n, features]` to `[b, features]`."""
        position = self.positional_embedding[...].astype(jnp.float32)
        mean = (x.mean(axis=1, keepdims=True, dtype=jnp.float32) + position).astype(x.dtype)
        x = jnp.concatenate([mean, x], axis=1)
        q, k, v = (
            project(y).reshape(*y.shape[:2], self.heads, -1)
            for project, y in ((self.q_proj, mean), (self.k_proj, x), (self.v_proj, x))
        )
        q, k, v = (a.astype(jnp.float32) for a in (q, k, v))  # CPUs have no float16 product with a float32 result
        return attend(q, k, v).reshape(len(x), -1).astype(x.dtype)


class TextTimeEmbedding(nnx.Module):
    """The embedding of a text as one vector, which is added to that of the timestep."""

    def __init__(self, features_in: int, features_out: int, heads: int, **kw: Any) -> None:
        self.norm1 = layer_norm(features_in, _EPSILON, **kw)
        self.pool = AttentionPooling(features_in, heads, **kw)
        self.proj = nnx.Linear(features_in, features_out, **kw)
        self.norm2 = layer_norm(features_out, _EPSILON, **kw)

    def __call__(self, x: Array) -> Array:
        """Embeds texts `[b, n, features_in]` as `[b, features_out]`."""
        return self.norm2(self.proj(self.pool(self.norm1(x))))


class Block(nnx.Module):
    """The layers of one resolution: ResNet blocks, each followed by attention if `attention` is given.

    Args:
      sizes: input and output features of each ResNet block.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], resnet: Any, attention: Any) -> None:
        self.resnets = List([resnet(*size) for size in sizes])
        self.attentions = List([attention(size[1]) for size in sizes]) if attention else None

    def _layer(self, i, x, embedding, text):
        x = self.resnets[i](x, embedding)
        return x if self.attentions is None else self.attentions[i](x, next(text))


class DownBlock(Block):
    """`ResnetDownsampleBlock2D`, or, with `attention`, `SimpleCrossAttnDownBlock2D`."""

    def __init__(
        self, features_in: int, features_out: int, layers: int, resnet: Any, attention: Any, last: bool
    ) -> None:
        super().__init__([(features_in, features_out)] + [(features_out,) * 2] * (layers - 1), resnet, attention)
        self.downsamplers = None if last else List([resnet(features_out, features_out, resize=halve)])

    def __call__(self, x: Array, embedding: Array, text: Iterator[KeysValues]) -> tuple[Array, list[Array]]:
        """Returns the output and the list of skips."""
        skips = []
        for i in range(len(self.resnets)):
            x = self._layer(i, x, embedding, text)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x, embedding)
            skips.append(x)
        return x, skips


class MidBlock(nnx.Module):
    """`UNetMidBlock2DSimpleCrossAttn`."""

    def __init__(self, features: int, resnet: Any, attention: Any) -> None:
        self.resnets = List([resnet(features, features) for _ in range(2)])
        self.attentions = List([attention(features)])

    def __call__(self, x: Array, embedding: Array, text: Iterator[KeysValues]) -> Array:
        x = self.attentions[0](self.resnets[0](x, embedding), next(text))
        return self.resnets[1](x, embedding)


class UpBlock(Block):
    """`ResnetUpsampleBlock2D`, or, with `attention`, `SimpleCrossAttnUpBlock2D`; `skips` are its skips' channels."""

    def __init__(
        self, features_in: int, features_out: int, skips: Sequence[int], resnet: Any, attention: Any, last: bool
    ) -> None:
        before = [features_in] + [features_out] * (len(skips) - 1)
        sizes = [(size + skip, features_out) for size, skip in zip(before, skips, strict=True)]
        super().__init__(sizes, resnet, attention)
        self.upsamplers = None if last else List([resnet(features_out, features_out, resize=double)])

    def __call__(self, x: Array, skips: list[Array], embedding: Array, text: Iterator[KeysValues]) -> Array:
        """Computes the block with skips that it pops from the list."""
        for i in range(len(self.resnets)):
            x = self._layer(i, jnp.concatenate([x, skips.pop()], axis=-1), embedding, text)
        return x if self.upsamplers is None else self.upsamplers[0](x, embedding)


class PixelText(NamedTuple):
    """The projections of texts that a UNet uses at every step."""

    embedding: Array  # [b, time_features]
    keys_values: list[KeysValues]  # of each attention layer, in the order of calls


class PixelUNet(nnx.Module):
    """The predictor of noise in images, and of the variance of a step, given the timestep and a text.

    Args:
      config: the sizes.
      dtype: dtype of the activations.
      param_dtype: dtype of the weights.
      rngs: for random weights.
    """

    def __init__(
        self,
        config: PixelUNetConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        kw: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config, self.dtype = config, dtype
        channels, n = config.block_out_channels, len(config.block_out_channels)
        time = config.time_embedding_dim or 4 * channels[0]
        embed_time = functools.partial(TimestepEmbedding, channels[0], time, activation=gelu, **kw)
        resnet = functools.partial(
            ResnetBlock2D, config=config, time_features=time, divisor=config.resnet_out_scale_factor, **kw
        )
        mid_resnet = functools.partial(resnet, divisor=config.mid_block_scale_factor)
        attention = functools.partial(AddedAttention, config=config, **kw)

        self.conv_in = conv3x3(config.in_channels, channels[0], **kw)
        self.time_embedding = embed_time()
        self.class_embedding = embed_time() if config.class_embed_type else None
        self.encoder_hid_proj = nnx.Linear(config.encoder_hid_dim, config.cross_attention_dim, **kw)
        self.add_embedding = TextTimeEmbedding(config.encoder_hid_dim, time, config.addition_embed_type_num_heads, **kw)

        down, skips = [], [channels[0]]
        for i, kind in enumerate(config.down_block_types):
            attends, last = attention if "Attn" in kind else None, i == n - 1
            down.append(DownBlock(channels[max(i - 1, 0)], channels[i], config.layers[i], resnet, attends, last))
            skips += [channels[i]] * (config.layers[i] + (not last))
        self.down_blocks = List(down)

        self.mid_block = MidBlock(channels[-1], mid_resnet, attention)

        up, features = [], channels[-1]
        for i, kind in zip(reversed(range(n)), config.up_block_types, strict=True):
            attends = attention if "Attn" in kind else None
            taken = [skips.pop() for _ in range(config.layers[i] + 1)]
            up.append(UpBlock(features, channels[i], taken, resnet, attends, i == 0))
            features = channels[i]
        self.up_blocks = List(up)

        self.conv_norm_out = group_norm(channels[0], config.norm_num_groups, config.norm_eps, **kw)
        self.conv_out = conv3x3(channels[0], config.out_channels, **kw)

    @property
    def is_upscaler(self) -> bool:
        """Returns whether this is a model of the second stage."""
        return self.class_embedding is not None

    def __call__(self, x: Array, t: Array, text: Array, level: Array | None = None) -> Array:
        """Predicts noise and variance.

        Args:
          x: noisy images about [-1, 1], `[b, h, w, in_channels]`. In the second stage the last channels hold the small
            image, resized to `h, w`, with noise added.
          t: timesteps `[b]`.
          text: hidden states of a T5 encoder, `[b, n, encoder_hid_dim]`, padding included.
          level: in the second stage, timesteps `[b]` of the noise in the small image.

        Returns:
          `[b, h, w, out_channels]` in the model's dtype: the noise, then the v of `its_jax.diffusion.ddpm`.

        Raises:
          UserError: height or width is not a multiple of `config.multiple`, or `level` is missing or not supported.
        """
        return self.predict(x, t, self.project_text(text), level)

    def project_text(self, text: Array) -> PixelText:
        """Computes the projections of texts `[b, n, encoder_hid_dim]`."""
        text = text.astype(self.dtype)
        projected = self.encoder_hid_proj(text)
        blocks = *self.down_blocks, self.mid_block, *self.up_blocks
        attentions = [attention for block in blocks for attention in block.attentions or ()]
        return PixelText(self.add_embedding(text), [attention.project(projected) for attention in attentions])

    def predict(self, x: Array, t: Array, text: PixelText, level: Array | None = None) -> Array:
        """Predicts noise and variance, like `__call__`, from the result of `project_text`."""
        self._check(x, level)
        embedding = self._embed(t, text, level)
        keys_values = iter(text.keys_values)
        x = self.conv_in(x.astype(self.dtype))
        skips = [x]
        for block in self.down_blocks:
            x, more = block(x, embedding, keys_values)
            skips += more
        x = self.mid_block(x, embedding, keys_values)
        for block in self.up_blocks:
            x = block(x, skips, embedding, keys_values)
        return self.conv_out(self.conv_norm_out(x, gelu))

    def _check(self, x, level):
        height, width = x.shape[1:3]
        multiple = self.config.multiple
        if height % multiple or width % multiple:
            raise UserError(f"an image of {height} x {width} pixels: this model takes only multiples of {multiple}")
        if self.is_upscaler != (level is not None):
            needs = "is an upscaler and needs" if self.is_upscaler else "is not an upscaler and takes no"
            raise UserError(f"this model {needs} level, the timestep of the noise in the small image")

    def _embed(self, t, text, level):
        """Embeds timestep, text and level as one vector, `[b, time_features]`."""
        embedding = self.time_embedding(self._sinusoids(t)) + text.embedding
        if level is not None:
            assert self.class_embedding is not None
            embedding = embedding + self.class_embedding(self._sinusoids(level))
        if self.config.time_embedding_act_fn:
            embedding = gelu(embedding)
        return embedding if self.config.resnet_skip_time_act else gelu(embedding)

    def _sinusoids(self, t):
        config = self.config
        sinusoids = timestep_embedding(
            t,
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
        return sinusoids.astype(self.dtype)
