"""`AutoencoderKL`: images to latents and back. Each resolution after the first halves height and width."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from its_jax.config_fields import check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.layers import Attention, Downsample2D, List, ResnetBlock2D, Upsample2D, conv1x1, conv3x3, group_norm

_EPSILON = 1e-6  # for every norm in diffusers' Encoder and Decoder

_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "latents_mean": (None,),
    "latents_std": (None,),
    "shift_factor": (None, 0),
}
# `force_upcast` requests float32 where float16 overflows. Here the caller chooses the dtype.
_IGNORED = ("sample_size", "force_upcast")
_SIZES = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "latent_channels",
    "norm_num_groups",
)


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """The fields of `vae/config.json` that shape the model; defaults are those of diffusers."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "VAEConfig":
        """Reads a parsed `config.json`; raises `UserError` for what the model does not support."""
        config = read_fields(cls, raw, fixed=_FIXED, ignored=_IGNORED)
        check_sizes(config, *_SIZES)
        for name, known in (
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ):
            if getattr(config, name) != (known,) * len(config.block_out_channels):
                raise UserError(f"VAEConfig: {name} must be {known!r} for each of block_out_channels")
        if any(channels % config.norm_num_groups for channels in config.block_out_channels):
            raise UserError("VAEConfig: each of block_out_channels must be a multiple of norm_num_groups")
        return config

    @property
    def factor(self) -> int:
        """Returns the number of image pixels per latent pixel along each axis."""
        return 2 ** (len(self.block_out_channels) - 1)


class SpatialAttention(Attention):
    """Normalized single-head self-attention over the pixels of a feature map, as a residual."""

    def __init__(self, features: int, groups: int, *, rngs: nnx.Rngs, **kw: Any) -> None:
        super().__init__(features, heads=1, qkv_bias=True, rngs=rngs, **kw)
        self.group_norm = group_norm(features, groups, _EPSILON, rngs=rngs, **kw)

    def __call__(self, x: Array) -> Array:  # type: ignore[override]
        b, h, w, c = x.shape
        return x + super().__call__(self.group_norm(x).reshape(b, h * w, c)).reshape(x.shape)


class MidBlock(nnx.Module):
    """`UNetMidBlock2D`."""

    def __init__(self, features: int, config: VAEConfig, resnet: Any, **kw: Any) -> None:
        attend = config.mid_block_add_attention
        self.resnets = List([resnet(features, features) for _ in range(2)])
        self.attentions = List([SpatialAttention(features, config.norm_num_groups, **kw)]) if attend else None

    def __call__(self, x: Array) -> Array:
        x = self.resnets[0](x)
        if self.attentions is not None:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class DownBlock(nnx.Module):
    """`DownEncoderBlock2D`."""

    def __init__(self, features_in: int, features_out: int, layers: int, resnet: Any, last: bool, **kw: Any) -> None:
        self.resnets = List([resnet(features_in if i == 0 else features_out, features_out) for i in range(layers)])
        # The VAE pads only at the bottom and right edges.
        padding = ((0, 1), (0, 1))
        self.downsamplers = None if last else List([Downsample2D(features_out, padding=padding, **kw)])

    def __call__(self, x: Array) -> Array:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.downsamplers is None else self.downsamplers[0](x)


class UpBlock(nnx.Module):
    """`UpDecoderBlock2D`."""

    def __init__(self, features_in: int, features_out: int, layers: int, resnet: Any, last: bool, **kw: Any) -> None:
        self.resnets = List([resnet(features_in if i == 0 else features_out, features_out) for i in range(layers)])
        self.upsamplers = None if last else List([Upsample2D(features_out, **kw)])

    def __call__(self, x: Array) -> Array:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.upsamplers is None else self.upsamplers[0](x)


class Encoder(nnx.Module):
    """The network from images `[b, H, W, in_channels]` to moments `[b, h, w, 2 * latent_channels]`."""

    def __init__(self, config: VAEConfig, **kw: Any) -> None:
        channels = config.block_out_channels
        resnet = functools.partial(ResnetBlock2D, groups=config.norm_num_groups, epsilon=_EPSILON, **kw)
        self.conv_in = conv3x3(config.in_channels, channels[0], **kw)
        self.down_blocks = List(
            [
                DownBlock(channels[max(i - 1, 0)], c, config.layers_per_block, resnet, i == len(channels) - 1, **kw)
                for i, c in enumerate(channels)
            ]
        )
        self.mid_block = MidBlock(channels[-1], config, resnet, **kw)
        self.conv_norm_out = group_norm(channels[-1], config.norm_num_groups, _EPSILON, **kw)
        self.conv_out = conv3x3(channels[-1], 2 * config.latent_channels, **kw)

    def __call__(self, x: Array) -> Array:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), nnx.silu))


class Decoder(nnx.Module):
    """The network from latents `[b, h, w, latent_channels]` to images `[b, H, W, out_channels]`."""

    def __init__(self, config: VAEConfig, **kw: Any) -> None:
        channels = config.block_out_channels[::-1]
        resnet = functools.partial(ResnetBlock2D, groups=config.norm_num_groups, epsilon=_EPSILON, **kw)
        self.conv_in = conv3x3(config.latent_channels, channels[0], **kw)
        self.mid_block = MidBlock(channels[0], config, resnet, **kw)
        self.up_blocks = List(
            [
                UpBlock(
                    channels[max(i - 1, 0)],
                    c,
                    config.layers_per_block + 1,
                    resnet,
                    i == len(channels) - 1,
                    **kw,
                )
                for i, c in enumerate(channels)
            ]
        )
        self.conv_norm_out = group_norm(channels[-1], config.norm_num_groups, _EPSILON, **kw)
        self.conv_out = conv3x3(channels[-1], config.out_channels, **kw)

    def __call__(self, z: Array) -> Array:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(x, nnx.silu))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over latents `[b, h, w, latent_channels]`."""

    mean: Array
    log_variance: Array

    def sample(self, key: Array) -> Array:
        """Draws a sample with a random key."""
        noise = jax.random.normal(key, self.mean.shape, jnp.float32)
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise.astype(self.mean.dtype)


class AutoencoderKL(nnx.Module):
    """The VAE. Its latents are not scaled: multiply them by `config.scaling_factor` for diffusion.

    Args:
      config: the sizes.
      dtype: dtype of the activations.
      param_dtype: dtype of the weights.
      rngs: for random weights.
    """

    def __init__(
        self,
        config: VAEConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        kw: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config, self.dtype = config, dtype
        c = config.latent_channels
        self.encoder = Encoder(config, **kw)
        self.decoder = Decoder(config, **kw)
        self.quant_conv = conv1x1(2 * c, 2 * c, **kw) if config.use_quant_conv else None
        self.post_quant_conv = conv1x1(c, c, **kw) if config.use_post_quant_conv else None

    def encode(self, image: Array) -> Posterior:
        """Encodes images `[b, H, W, in_channels]` in [-1, 1] as a posterior over `[b, h, w, latent_channels]`.

        h is H / `config.factor`, rounded down, and likewise w.
        """
        moments = self.encoder(image.astype(self.dtype))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return Posterior(mean, jnp.clip(log_variance, -30.0, 20.0))

    def decode(self, z: Array) -> Array:
        """Decodes latents `[b, h, w, latent_channels]` to images `[b, H, W, out_channels]`, about [-1, 1].

        H is h * `config.factor`, and likewise W.
        """
        z = z.astype(self.dtype)
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
