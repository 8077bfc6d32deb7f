"""`CLIPModel`: embeddings of images and texts in one space, close if they match (Radford et al. 2021)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from its_jax.config_fields import BOOKKEEPING, check_sizes, read_fields
from its_jax.models.clip_text import CLIPTextConfig, CLIPTextModel, Encoder, check_transformer
from its_jax.models.layers import layer_norm, normalize

_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("clip_vision_model",),
    "num_channels": (3,),
    "is_encoder_decoder": (False,),
}
_FIXED |= {"chunk_size_feed_forward": (0,)}
_DROPPED = ("attention_dropout", "dropout", "projection_dim")  # the projection is part of the whole model
# This `eos_token_id` marks an old config, which does not state the real one: the end of a text is its highest token.
_NO_EOS = 2


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
    """The fields of `vision_config` that shape the model; defaults are those of transformers."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "CLIPVisionConfig":
        """Reads a parsed config; raises `UserError` for what the model does not support."""
        config = read_fields(cls, raw, fixed=_FIXED, ignored=BOOKKEEPING + _DROPPED)
        sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        check_sizes(config, *sizes, "image_size", "patch_size")
        check_transformer(config)
        return config


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """The configs of both towers, and the size of their common space."""

    text_config: CLIPTextConfig
    vision_config: CLIPVisionConfig
    projection_dim: int = 512

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "CLIPConfig":
        """Reads a parsed `config.json`; raises `UserError` for what the model does not support."""
        fixed = {"model_type": ("clip",), "is_encoder_decoder": (False,), "chunk_size_feed_forward": (0,)}
        # Old files hold the config of each tower twice, and the second copies are complete but equal.
        ignored = (*BOOKKEEPING, "logit_scale_init_value", "text_config_dict", "vision_config_dict")
        config = read_fields(cls, raw, fixed=fixed, ignored=ignored)
        check_sizes(config, "projection_dim")
        return config


class VisionEmbeddings(nnx.Module):
    """The embeddings of patches and their positions, after a class token."""

    def __init__(self, config: CLIPVisionConfig, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        kw: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        size, patches = (config.patch_size,) * 2, (config.image_size // config.patch_size) ** 2
        self.class_embedding = nnx.Param(jnp.zeros(config.hidden_size, param_dtype))
        self.patch_embedding = nnx.Conv(3, config.hidden_size, size, size, padding="VALID", use_bias=False, **kw)
        self.position_embedding = nnx.Embed(patches + 1, config.hidden_size, **kw)

    def __call__(self, x: Array) -> Array:
        patches = self.patch_embedding(x)
        patches = patches.reshape(len(x), -1, patches.shape[-1])
        first = jnp.broadcast_to(self.class_embedding[...].astype(patches.dtype), (len(x), 1, patches.shape[-1]))
        tokens = jnp.concatenate([first, patches], axis=1)
        return tokens + self.position_embedding(jnp.arange(tokens.shape[1]))


class CLIPVisionModel(nnx.Module):
    """CLIP's vision transformer, with the attribute names of transformers."""

    def __init__(self, config: CLIPVisionConfig, **kw: Any) -> None:
        self.config = config
        self.embeddings = VisionEmbeddings(config, **kw)
        self.pre_layrnorm = layer_norm(config.hidden_size, config.layer_norm_eps, **kw)  # spelled so in all checkpoints
        self.encoder = Encoder(config, causal=False, **kw)
        self.post_layernorm = layer_norm(config.hidden_size, config.layer_norm_eps, **kw)

    def __call__(self, x: Array) -> Array:
        """Computes the state of the class token, `[b, hidden_size]`, for images `[b, image_size, image_size, 3]`."""
        return self.post_layernorm(self.encoder(self.pre_layrnorm(self.embeddings(x)))[:, 0])


class CLIPModel(nnx.Module):
    """Both towers with their projections, with the attribute names of transformers.

    Args:
      config: the sizes.
      dtype: dtype of the activations.
      param_dtype: dtype of the weights.
      rngs: for random weights.
    """

    def __init__(
        self,
        config: CLIPConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        kw: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        text, vision = config.text_config, config.vision_config
        self.text_model = CLIPTextModel(text, **kw)
        self.vision_model = CLIPVisionModel(vision, **kw)
        self.text_projection = nnx.Linear(text.hidden_size, config.projection_dim, use_bias=False, **kw)
        self.visual_projection = nnx.Linear(vision.hidden_size, config.projection_dim, use_bias=False, **kw)
        self.logit_scale = nnx.Param(jnp.zeros((), param_dtype))

    def embed_text(self, input_ids: Array) -> Array:
        """Embeds texts, int `[b, n]` with an end token each, as float32 `[b, projection_dim]` of length 1."""
        eos = self.config.text_config.eos_token_id
        ends = (input_ids if eos == _NO_EOS else input_ids == eos).argmax(axis=-1)
        states = jnp.take_along_axis(self.text_model(input_ids), ends[:, None, None], axis=1)[:, 0]
        return normalize(self.text_projection(states))

    def embed_image(self, x: Array) -> Array:
        """Embeds normalized images `[b, image_size, image_size, 3]` as float32 `[b, projection_dim]` of length 1."""
        return normalize(self.visual_projection(self.vision_model(x)))
