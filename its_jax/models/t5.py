"""`T5EncoderModel`: the text encoder of DeepFloyd IF (T5 v1.1; Raffel et al. 2020, Shazeer 2020)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from its_jax.config_fields import BOOKKEEPING, check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.layers import List

# The gated feed-forward layer distinguishes v1.1 from the original; `gelu_new` is the tanh approximation.
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("t5",),
    "feed_forward_proj": ("gated-gelu",),
    "dense_act_fn": ("gelu_new",),
}
_FIXED |= {"is_gated_act": (True,), "is_decoder": (False,), "chunk_size_feed_forward": (0,)}
_DEFAULTS = {"feed_forward_proj": "relu"}  # a config without this field means this value
# These fields concern training and the decoder; `n_positions` is the length of texts in training.
_IGNORED = (*BOOKKEEPING, "classifier_dropout", "decoder_start_token_id", "dropout_rate", "eos_token_id")
_IGNORED += ("is_encoder_decoder", "n_positions", "num_decoder_layers", "output_past", "scale_decoder_outputs")
_IGNORED += ("tie_word_embeddings", "use_cache")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The fields of `text_encoder/config.json` that shape the model; defaults are those of transformers."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    pad_token_id: int = 0

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "T5Config":
        """Reads a parsed `config.json`; raises `UserError` for what the model does not support."""
        config = read_fields(cls, {**_DEFAULTS, **raw}, fixed=_FIXED, ignored=_IGNORED)
        sizes = {field.name for field in dataclasses.fields(cls) if field.type is int} - {"pad_token_id"}
        check_sizes(config, *sorted(sizes))
        buckets, distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
        if buckets % 4 or distance <= buckets // 4:
            raise UserError(
                f"T5Config: relative_attention_num_buckets={buckets} must be a multiple of 4, and "
                f"relative_attention_max_distance={distance} above a quarter of it"
            )
        return config

    @property
    def hidden_size(self) -> int:
        """Returns the number of features, under the name that the other text encoders use."""
        return self.d_model


def relative_position_buckets(n: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """Returns the bucket of the learned bias for each pair of tokens, int `[n, n]`; rows are the tokens that attend.

    Half of the buckets are for earlier tokens, half for later ones. In each half, the first buckets hold one distance
    each, and as many further ones hold ranges of distances that grow logarithmically up to `max_distance`.
    """
    offset = np.arange(n)[None] - np.arange(n)[:, None]
    per_side, distance = num_buckets // 2, np.abs(offset)
    exact = per_side // 2
    # T5 was trained with float32 here, and at some distances the rounding of the logarithm matters.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        math.log(max_distance / exact)
    )
    far = exact + (ratio * np.float32(per_side - exact)).astype(int)
    return per_side * (offset > 0) + np.where(distance < exact, distance, np.minimum(far, per_side - 1))


class RMSNorm(nnx.Module):
    """Root mean square normalization of a float32 input, which Flax's own would first round, overflowing float16."""

    def __init__(self, config: T5Config, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.epsilon, self.dtype = config.layer_norm_epsilon, dtype
        self.scale = nnx.Param(jnp.ones(config.d_model, param_dtype))

    def __call__(self, x: Array) -> Array:
        """Normalizes float32 `[b, n, d_model]`; the result has the activations' dtype."""
        x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.epsilon)
        return (x * self.scale[...].astype(jnp.float32)).astype(self.dtype)


class SelfAttention(nnx.Module):
    """Multi-head attention with unscaled scores. The one that is `biased` holds the table of biases of all layers."""

    def __init__(self, config: T5Config, biased: bool, *, rngs: nnx.Rngs, **kw: Any) -> None:
        linear: Callable[..., nnx.Linear] = functools.partial(nnx.Linear, use_bias=False, rngs=rngs, **kw)
        features, inner = config.d_model, config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q, self.k, self.v = (linear(features, inner) for _ in range(3))
        self.o = linear(inner, features)
        size = (config.relative_attention_num_buckets, config.num_heads)
        self.relative_attention_bias = nnx.Embed(*size, rngs=rngs, **kw) if biased else None

    def __call__(self, x: Array, bias: Array, mask: Array | None) -> Array:
        q, k, v = (p(x).reshape(*x.shape[:2], self.heads, -1) for p in (self.q, self.k, self.v))
        q, k, v = (a.astype(jnp.float32) for a in (q, k, v))  # CPUs have no float16 product with a float32 result
        attended = jax.nn.dot_product_attention(q, k, v, bias, mask, scale=1.0, implementation="xla")
        return self.o(attended.reshape(*x.shape[:2], -1).astype(x.dtype))


class LayerSelfAttention(nnx.Module):
    """Normalized self-attention as a residual."""

    def __init__(self, config: T5Config, biased: bool, **kw: Any) -> None:
        self.SelfAttention = SelfAttention(config, biased, **kw)
        self.layer_norm = RMSNorm(config, **kw)

    def __call__(self, x: Array, bias: Array, mask: Array | None) -> Array:
        return x + self.SelfAttention(self.layer_norm(x), bias, mask)


class DenseReluDense(nnx.Module):
    """A gated GELU, despite the name, which is T5's. `wo` is float32, because its output overflows float16."""

    def __init__(self, config: T5Config, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        linear: Callable[..., nnx.Linear] = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        kw = dict(dtype=dtype, param_dtype=param_dtype)
        self.wi_0, self.wi_1 = (linear(config.d_model, config.d_ff, **kw) for _ in range(2))
        self.wo = linear(config.d_ff, config.d_model, dtype=jnp.float32, param_dtype=jnp.float32)

    def __call__(self, x: Array) -> Array:
        gate, y = (wi(x).astype(jnp.float32) for wi in (self.wi_0, self.wi_1))
        return self.wo(jax.nn.gelu(gate, approximate=True) * y)


class LayerFF(nnx.Module):
    """A normalized feed-forward layer as a residual."""

    def __init__(self, config: T5Config, **kw: Any) -> None:
        self.DenseReluDense = DenseReluDense(config, **kw)
        self.layer_norm = RMSNorm(config, **kw)

    def __call__(self, x: Array) -> Array:
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nnx.Module):
    """A pre-norm transformer layer with a float32 residual stream."""

    def __init__(self, config: T5Config, biased: bool, **kw: Any) -> None:
        self.layer = List([LayerSelfAttention(config, biased, **kw), LayerFF(config, **kw)])

    def __call__(self, x: Array, bias: Array, mask: Array | None) -> Array:
        attention, feed_forward = self.layer
        return feed_forward(attention(x, bias, mask))


class Stack(nnx.Module):
    """The layers of the encoder."""

    def __init__(self, config: T5Config, **kw: Any) -> None:
        self.config = config
        self.block = List([Block(config, i == 0, **kw) for i in range(config.num_layers)])
        self.final_layer_norm = RMSNorm(config, **kw)

    def __call__(self, x: Array, mask: Array | None) -> Array:
        bias, mask = self.position_bias(x.shape[1]), None if mask is None else mask[:, None, None]
        x = x.astype(jnp.float32)
        for block in self.block:
            x = block(x, bias, mask)
        return self.final_layer_norm(x)

    def position_bias(self, n: int) -> Array:
        """Computes the bias that every layer adds to the scores of `n` tokens, float32 `[1, heads, n, n]`."""
        config, first = self.config, self.block[0].layer[0]
        buckets = relative_position_buckets(
            n, config.relative_attention_num_buckets, config.relative_attention_max_distance
        )
        bias = first.SelfAttention.relative_attention_bias(buckets)
        return jnp.moveaxis(bias.astype(jnp.float32), -1, 0)[None]


class T5EncoderModel(nnx.Module):
    """T5's encoder, with the attribute names of transformers, where `encoder.embed_tokens` is the same as `shared`.

    Args:
      config: the sizes.
      dtype: dtype of the activations, except the residual stream, which is float32.
      param_dtype: dtype of the weights, except `wo`, which is float32.
      rngs: for random weights.
    """

    def __init__(
        self,
        config: T5Config,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        kw: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config = config
        self.shared = nnx.Embed(config.vocab_size, config.d_model, **kw)
        self.encoder = Stack(config, **kw)

    def __call__(self, input_ids: Array, mask: Array | None = None) -> Array:
        """Computes the hidden states `[b, n, d_model]` of tokens.

        Args:
          input_ids: int `[b, n]`.
          mask: bool `[b, n]`, the tokens that are attended to, usually `input_ids != config.pad_token_id`; None means
            all. The other tokens have hidden states too, and IF's UNets attend to these.
        """
        return self.encoder(self.shared(input_ids), mask)
