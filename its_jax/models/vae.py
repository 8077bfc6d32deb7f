"""`AutoencoderKL`: pictures to latents and back, a factor 2 smaller for each but one of its resolutions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from its_jax.config_fields import check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.layers import Attention, Downsample2D, List, ResnetBlock2D, Upsample2D, conv1x1, conv3x3, group_norm

_EPSILON = 1e-6  # of every norm in diffusers' Encoder and Decoder

_FIXED = {
    "act_fn": ("silu",),
    "latents_mean": (None,),
    "latents_std": (None,),
    "shift_factor": (None, 0),
}
# `force_upcast` asks for float32 where float16 overflows: the caller's choice of dtype decides here.
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
    def from_dict(cls, raw):
        """Reads a parsed `config.json`; raises `UserError` for what the model cannot do."""
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
    def factor(self):
        """Pixels of a picture for one of the latent, along each axis."""
        return 2 ** (len(self.block_out_channels) - 1)


class SpatialAttention(Attention):
    """Normalised single-head self-attention over the pixels of a feature map, as a residual."""

    def __init__(self, features, groups, *, rngs, **kw):
        super().__init__(features, heads=1, qkv_bias=True, rngs=rngs, **kw)
        self.group_norm = group_norm(features, groups, _EPSILON, rngs=rngs, **kw)

    def __call__(self, x):
        b, h, w, c = x.shape
        return x + super().__call__(self.group_norm(x).reshape(b, h * w, c)).reshape(x.shape)


class MidBlock(nnx.Module):
    def __init__(self, features, config, resnet, **kw):
        attend = config.mid_block_add_attention
        self.resnets = List([resnet(features, features) for _ in range(2)])
        self.attentions = List([SpatialAttention(features, config.norm_num_groups, **kw)]) if attend else None

    def __call__(self, x):
        x = self.resnets[0](x)
        if self.attentions is not None:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class DownBlock(nnx.Module):
    def __init__(self, features_in, features_out, layers, resnet, last, **kw):
        self.resnets = List([resnet(features_in if i == 0 else features_out, features_out) for i in range(layers)])
        # The VAE pads at the far edges only.
        padding = ((0, 1), (0, 1))
        self.downsamplers = None if last else List([Downsample2D(features_out, padding=padding, **kw)])

    def __call__(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.downsamplers is None else self.downsamplers[0](x)


class UpBlock(nnx.Module):
    def __init__(self, features_in, features_out, layers, resnet, last, **kw):
        self.resnets = List([resnet(features_in if i == 0 else features_out, features_out) for i in range(layers)])
        self.upsamplers = None if last else List([Upsample2D(features_out, **kw)])

    def __call__(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.upsamplers is None else self.upsamplers[0](x)


class Encoder(nnx.Module):
    def __init__(self, config, **kw):
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

    def __call__(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), nnx.silu))


class Decoder(nnx.Module):
    def __init__(self, config, **kw):
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

    def __call__(self, z):
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(x, nnx.silu))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over latents `[b, h, w, latent_channels]`."""

    mean: jax.Array
    log_variance: jax.Array

    def sample(self, key):
        noise = jax.random.normal(key, self.mean.shape, jnp.float32)
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise.astype(self.mean.dtype)


class AutoencoderKL(nnx.Module):
    """The VAE. Its latents are unscaled: multiply by `config.scaling_factor` for diffusion."""

    def __init__(self, config, *, dtype=jnp.float32, param_dtype=jnp.float32, rngs):
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config, self.dtype = config, dtype
        c = config.latent_channels
        self.encoder = Encoder(config, **kw)
        self.decoder = Decoder(config, **kw)
        self.quant_conv = conv1x1(2 * c, 2 * c, **kw) if config.use_quant_conv else None
        self.post_quant_conv = conv1x1(c, c, **kw) if config.use_post_quant_conv else None

    def encode(self, picture):
        """Pictures `[b, H, W, in_channels]` in [-1, 1] -> `Posterior` of `[b, h, w, latent_channels]`.

        `h = H / config.factor`, rounded down; `w` likewise.
        """
        moments = self.encoder(picture.astype(self.dtype))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return Posterior(mean, jnp.clip(log_variance, -30.0, 20.0))

    def decode(self, z):
        """Latents `[b, h, w, latent_channels]` -> pictures `[b, H, W, out_channels]`, about [-1, 1].

        `H = h * config.factor`; `W` likewise.
        """
        z = z.astype(self.dtype)
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
