"""`CLIPTextModel`: the text encoder of Stable Diffusion 1.x and Auffusion, and the text tower of CLIP."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from its_jax.config_fields import BOOKKEEPING, check_heads, check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.layers import List, layer_norm

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI's CLIP: Hendrycks and Gimpel 2016
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}
_FIXED: dict[str, tuple[Any, ...]] = {"model_type": ("clip_text_model",)}
_FIXED |= {"is_encoder_decoder": (False,), "chunk_size_feed_forward": (0,)}
# These fields concern training, the tokenizer and the pooled output, not the hidden states.
_IGNORED = (*BOOKKEEPING, "attention_dropout", "bos_token_id", "dropout", "pad_token_id", "projection_dim")
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
    """The fields of `text_encoder/config.json` that shape the model; defaults are those of transformers."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407  # `CLIPModel` takes the state at this token

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "CLIPTextConfig":
        """Reads a parsed `config.json`; raises `UserError` for what the model does not support."""
        config = read_fields(cls, raw, fixed=_FIXED, ignored=_IGNORED)
        check_sizes(config, *_SIZES)
        check_transformer(config)
        return config


def check_transformer(config: Any) -> None:
    """Raises `UserError` if `Encoder` does not support the config of a tower."""
    if config.hidden_act not in ACTIVATIONS:
        known = " or ".join(map(repr, ACTIVATIONS))
        raise UserError(f"{type(config).__name__}: hidden_act={config.hidden_act!r} is not supported, only {known}")
    check_heads(config)


class Embeddings(nnx.Module):
    """The embeddings of tokens and their positions."""

    def __init__(self, config: CLIPTextConfig, **kw: Any) -> None:
        self.token_embedding = nnx.Embed(config.vocab_size, config.hidden_size, **kw)
        self.position_embedding = nnx.Embed(config.max_position_embeddings, config.hidden_size, **kw)

    def __call__(self, input_ids: Array) -> Array:
        return self.token_embedding(input_ids) + self.position_embedding(jnp.arange(input_ids.shape[1]))


class SelfAttention(nnx.Module):
    """Multi-head attention of tokens `[b, n, features]` to all tokens, or, if `causal`, not to later ones."""

    def __init__(self, features: int, heads: int, causal: bool, **kw: Any) -> None:
        self.heads, self.causal = heads, causal
        self.q_proj = nnx.Linear(features, features, **kw)
        self.k_proj = nnx.Linear(features, features, **kw)
        self.v_proj = nnx.Linear(features, features, **kw)
        self.out_proj = nnx.Linear(features, features, **kw)

    def __call__(self, x: Array) -> Array:
        q, k, v = (p(x).reshape(*x.shape[:2], self.heads, -1) for p in (self.q_proj, self.k_proj, self.v_proj))
        # In float32, because CPUs have no float16 product with a float32 result. The cost is small.
        q, k, v = (a.astype(jnp.float32) for a in (q, k, v))
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal, implementation="xla")
        return self.out_proj(attended.reshape(x.shape).astype(x.dtype))


class MLP(nnx.Module):
    """The feed-forward layer."""

    def __init__(self, config: Any, **kw: Any) -> None:
        self.activation = config.hidden_act
        self.fc1 = nnx.Linear(config.hidden_size, config.intermediate_size, **kw)
        self.fc2 = nnx.Linear(config.intermediate_size, config.hidden_size, **kw)

    def __call__(self, x: Array) -> Array:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class EncoderLayer(nnx.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: Any, causal: bool, **kw: Any) -> None:
        self.layer_norm1 = layer_norm(config.hidden_size, config.layer_norm_eps, **kw)
        self.self_attn = SelfAttention(config.hidden_size, config.num_attention_heads, causal, **kw)
        self.layer_norm2 = layer_norm(config.hidden_size, config.layer_norm_eps, **kw)
        self.mlp = MLP(config, **kw)

    def __call__(self, x: Array) -> Array:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nnx.Module):
    """A stack of layers on tokens `[b, n, hidden_size]`."""

    def __init__(self, config: Any, causal: bool, **kw: Any) -> None:
        self.layers = List([EncoderLayer(config, causal, **kw) for _ in range(config.num_hidden_layers)])

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return x


class CLIPTextModel(nnx.Module):
    """CLIP's text transformer (Radford et al. 2021), with the attribute names of transformers 5.

    Args:
      config: the sizes.
      dtype: dtype of the activations.
      param_dtype: dtype of the weights.
      rngs: for random weights.
    """

    def __init__(
        self,
        config: CLIPTextConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        kw: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.embeddings = Embeddings(config, **kw)
        self.encoder = Encoder(config, causal=True, **kw)
        self.final_layer_norm = layer_norm(config.hidden_size, config.layer_norm_eps, **kw)

    def __call__(self, input_ids: Array) -> Array:
        """Computes the hidden states `[b, n, hidden_size]` of tokens, after the last norm.

        Padding is not masked, because Stable Diffusion was trained without a mask.

        Args:
          input_ids: int `[b, n]`, n <= `max_position_embeddings`.
        """
        return self.final_layer_norm(self.encoder(self.embeddings(input_ids)))
