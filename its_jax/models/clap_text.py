"""`ClapTextModel`: the text tower of CLAP, a RoBERTa (Liu et al. 2019) that gives one vector per text."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from its_jax.config_fields import BOOKKEEPING, check_heads, check_sizes, read_fields
from its_jax.models.layers import List, layer_norm

_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("clap_text_model",),
    "hidden_act": ("gelu",),
    "projection_hidden_act": ("relu",),
}
_FIXED |= {"is_encoder_decoder": (False,), "chunk_size_feed_forward": (0,), "type_vocab_size": (1,)}
_FIXED |= {"position_embedding_type": ("absolute",)}
_IGNORED = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "bos_token_id", "eos_token_id")
_IGNORED += ("fusion_hidden_size", "fusion_num_hidden_layers", "projection_dim", "projection_hidden_size", "use_cache")


@dataclasses.dataclass(frozen=True)
class ClapTextConfig:
    """The fields of `text_config` that shape the model; defaults are those of transformers."""

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 514
    pad_token_id: int = 1
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ClapTextConfig":
        """Reads a parsed config; raises `UserError` for what the model does not support."""
        config = read_fields(cls, raw, fixed=_FIXED, ignored=BOOKKEEPING + _IGNORED)
        names = {field.name for field in dataclasses.fields(cls) if field.type is int} - {"pad_token_id"}
        check_sizes(config, *sorted(names))
        check_heads(config)
        return config


class Embeddings(nnx.Module):
    """The embeddings of tokens, their positions and their (only) type."""

    def __init__(self, config: ClapTextConfig, **kw: Any) -> None:
        self.pad = config.pad_token_id
        self.word_embeddings = nnx.Embed(config.vocab_size, config.hidden_size, **kw)
        self.position_embeddings = nnx.Embed(config.max_position_embeddings, config.hidden_size, **kw)
        self.token_type_embeddings = nnx.Embed(1, config.hidden_size, **kw)
        self.LayerNorm = layer_norm(config.hidden_size, config.layer_norm_eps, **kw)

    def __call__(self, input_ids: Array) -> Array:
        tokens = input_ids != self.pad
        positions = jnp.cumsum(tokens, axis=-1) * tokens + self.pad  # RoBERTa's positions begin after the padding id
        words = self.word_embeddings(input_ids) + self.token_type_embeddings(jnp.zeros_like(input_ids))
        return self.LayerNorm(words + self.position_embeddings(positions))


class SelfAttention(nnx.Module):
    """Multi-head attention to the tokens that are not padding."""

    def __init__(self, features: int, heads: int, **kw: Any) -> None:
        self.heads = heads
        self.query, self.key, self.value = (nnx.Linear(features, features, **kw) for _ in range(3))

    def __call__(self, x: Array, tokens: Array) -> Array:
        q, k, v = (p(x).reshape(*x.shape[:2], self.heads, -1) for p in (self.query, self.key, self.value))
        q, k, v = (a.astype(jnp.float32) for a in (q, k, v))  # CPUs have no float16 product with a float32 result
        attended = jax.nn.dot_product_attention(q, k, v, mask=tokens[:, None, None], implementation="xla")
        return attended.reshape(x.shape).astype(x.dtype)


class Output(nnx.Module):
    """A linear layer, under the name of transformers."""

    def __init__(self, features_in: int, features_out: int, **kw: Any) -> None:
        self.dense = nnx.Linear(features_in, features_out, **kw)

    def __call__(self, x: Array) -> Array:
        return self.dense(x)


class NormedOutput(nnx.Module):
    """A linear layer as a residual, normalized after the addition."""

    def __init__(self, features_in: int, features_out: int, epsilon: float, **kw: Any) -> None:
        self.dense = nnx.Linear(features_in, features_out, **kw)
        self.LayerNorm = layer_norm(features_out, epsilon, **kw)

    def __call__(self, x: Array, residual: Array) -> Array:
        return self.LayerNorm(self.dense(x) + residual)


class Attention(nnx.Module):
    """Self-attention as a residual."""

    def __init__(self, config: ClapTextConfig, **kw: Any) -> None:
        self.self = SelfAttention(config.hidden_size, config.num_attention_heads, **kw)
        self.output = NormedOutput(config.hidden_size, config.hidden_size, config.layer_norm_eps, **kw)

    def __call__(self, x: Array, tokens: Array) -> Array:
        return self.output(self.self(x, tokens), x)


class Layer(nnx.Module):
    """A post-norm transformer layer."""

    def __init__(self, config: ClapTextConfig, **kw: Any) -> None:
        self.attention = Attention(config, **kw)
        self.intermediate = Output(config.hidden_size, config.intermediate_size, **kw)
        self.output = NormedOutput(config.intermediate_size, config.hidden_size, config.layer_norm_eps, **kw)

    def __call__(self, x: Array, tokens: Array) -> Array:
        x = self.attention(x, tokens)
        return self.output(jax.nn.gelu(self.intermediate(x), approximate=False), x)


class Encoder(nnx.Module):
    """A stack of layers on tokens `[b, n, hidden_size]`."""

    def __init__(self, config: ClapTextConfig, **kw: Any) -> None:
        self.layer = List([Layer(config, **kw) for _ in range(config.num_hidden_layers)])

    def __call__(self, x: Array, tokens: Array) -> Array:
        for layer in self.layer:
            x = layer(x, tokens)
        return x


class ClapTextModel(nnx.Module):
    """CLAP's text tower, with the attribute names of transformers."""

    def __init__(self, config: ClapTextConfig, **kw: Any) -> None:
        self.config = config
        self.embeddings = Embeddings(config, **kw)
        self.encoder = Encoder(config, **kw)
        self.pooler = Output(config.hidden_size, config.hidden_size, **kw)

    def __call__(self, input_ids: Array) -> Array:
        """Computes one vector per text, `[b, hidden_size]`.

        Args:
          input_ids: int `[b, n]`, padded with `pad_token_id`; n <= `max_position_embeddings` - `pad_token_id` - 1.
        """
        states = self.encoder(self.embeddings(input_ids), input_ids != self.config.pad_token_id)
        return jnp.tanh(self.pooler(states[:, 0]))
