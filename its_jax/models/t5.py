"""`T5EncoderModel`: a prompt's tokens to what DeepFloyd IF attends to (T5 v1.1; Raffel et al. 2020, Shazeer 2020)."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from its_jax.config_fields import BOOKKEEPING, check_sizes, read_fields
from its_jax.errors import UserError
from its_jax.models.layers import List

# The gated feed-forward layer is what makes it v1.1; `gelu_new` is the tanh form.
_FIXED = {"model_type": ("t5",), "feed_forward_proj": ("gated-gelu",), "dense_act_fn": ("gelu_new",)}
_FIXED |= {"is_gated_act": (True,), "is_decoder": (False,), "chunk_size_feed_forward": (0,)}
_DEFAULTS = {"feed_forward_proj": "relu"}  # what a config means that does not state it
# Training and the decoder; `n_positions` says how long texts were in training.
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
    def from_dict(cls, raw):
        """Reads a parsed `config.json`; raises `UserError` for what the model cannot do."""
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
        return self.d_model


def buckets(n, number, farthest):
    """Which of the learnt biases each token has for each: `[n, n]`, row for the one that attends.

    Half of the buckets are for tokens before, half for those behind. Of each half, one half is for each of the nearest
    distances, the other for ever wider ranges of distances up to `farthest`, and beyond it.
    """
    apart = np.arange(n)[None] - np.arange(n)[:, None]
    of_side, distance = number // 2, np.abs(apart)
    near = of_side // 2
    # In float32, as T5 was trained: at some distances the logarithm's rounding decides.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(near)) / np.float32(
        math.log(farthest / near)
    )
    far = near + (ratio * np.float32(of_side - near)).astype(int)
    return of_side * (apart > 0) + np.where(distance < near, distance, np.minimum(far, of_side - 1))


class RMSNorm(nnx.Module):
    """Without a mean that is taken off, nor a bias. Flax's would first round what it is given, beyond float16's end."""

    def __init__(self, config, *, dtype, param_dtype, rngs):
        self.epsilon, self.dtype = config.layer_norm_epsilon, dtype
        self.scale = nnx.Param(jnp.ones(config.d_model, param_dtype))

    def __call__(self, x):
        """float32 -> `dtype`."""
        x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.epsilon)
        return (x * self.scale[...].astype(jnp.float32)).astype(self.dtype)


class SelfAttention(nnx.Module):
    """Multi-head attention whose scores are not scaled; `biased`: it has the table of biases, for all layers."""

    def __init__(self, config, biased, *, rngs, **kw):
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs, **kw)
        features, inner = config.d_model, config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q, self.k, self.v = (linear(features, inner) for _ in range(3))
        self.o = linear(inner, features)
        table = (config.relative_attention_num_buckets, config.num_heads)
        self.relative_attention_bias = nnx.Embed(*table, rngs=rngs, **kw) if biased else None

    def __call__(self, x, bias, mask):
        q, k, v = (p(x).reshape(*x.shape[:2], self.heads, -1) for p in (self.q, self.k, self.v))
        q, k, v = (a.astype(jnp.float32) for a in (q, k, v))  # a CPU has no float16 products with a float32 result
        attended = jax.nn.dot_product_attention(q, k, v, bias, mask, scale=1.0, implementation="xla")
        return self.o(attended.reshape(*x.shape[:2], -1).astype(x.dtype))


class LayerSelfAttention(nnx.Module):
    def __init__(self, config, biased, **kw):
        self.SelfAttention = SelfAttention(config, biased, **kw)
        self.layer_norm = RMSNorm(config, **kw)

    def __call__(self, x, bias, mask):
        return x + self.SelfAttention(self.layer_norm(x), bias, mask)


class DenseReluDense(nnx.Module):
    """T5's name; since v1.1 a gated GELU. What it adds goes beyond float16: `wo` is float32 whatever the rest is."""

    def __init__(self, config, *, dtype, param_dtype, rngs):
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        kw = dict(dtype=dtype, param_dtype=param_dtype)
        self.wi_0, self.wi_1 = (linear(config.d_model, config.d_ff, **kw) for _ in range(2))
        self.wo = linear(config.d_ff, config.d_model, dtype=jnp.float32, param_dtype=jnp.float32)

    def __call__(self, x):
        gate, y = (wi(x).astype(jnp.float32) for wi in (self.wi_0, self.wi_1))
        return self.wo(jax.nn.gelu(gate, approximate=True) * y)


class LayerFF(nnx.Module):
    def __init__(self, config, **kw):
        self.DenseReluDense = DenseReluDense(config, **kw)
        self.layer_norm = RMSNorm(config, **kw)

    def __call__(self, x):
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nnx.Module):
    """Pre-norm transformer layer, on a float32 sum."""

    def __init__(self, config, biased, **kw):
        self.layer = List([LayerSelfAttention(config, biased, **kw), LayerFF(config, **kw)])

    def __call__(self, x, bias, mask):
        attention, feed_forward = self.layer
        return feed_forward(attention(x, bias, mask))


class Stack(nnx.Module):
    def __init__(self, config, **kw):
        self.config = config
        self.block = List([Block(config, i == 0, **kw) for i in range(config.num_layers)])
        self.final_layer_norm = RMSNorm(config, **kw)

    def __call__(self, x, mask):
        bias, mask = self.bias(x.shape[1]), None if mask is None else mask[:, None, None]
        x = x.astype(jnp.float32)
        for block in self.block:
            x = block(x, bias, mask)
        return self.final_layer_norm(x)

    def bias(self, n):
        """What every layer adds to the scores of `n` tokens, float32 `[1, heads, n, n]`."""
        config = self.config
        number, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias(buckets(n, number, farthest))
        return jnp.moveaxis(table.astype(jnp.float32), -1, 0)[None]


class T5EncoderModel(nnx.Module):
    """Named as in transformers, where `encoder.embed_tokens` is `shared` again.

    Args of the constructor:
      config: a `T5Config`. dtype: of the activations, but for the sum of the layers. param_dtype: of the weights, but
        for `wo`, which stays in float32.
    """

    def __init__(self, config, *, dtype=jnp.float32, param_dtype=jnp.float32, rngs):
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config = config
        self.shared = nnx.Embed(config.vocab_size, config.d_model, **kw)
        self.encoder = Stack(config, **kw)

    def __call__(self, input_ids, mask=None):
        """Token ids, int `[b, n]` -> states `[b, n, d_model]`.

        Args:
          mask: bool `[b, n]`, the tokens that are attended to, as a rule `input_ids != config.pad_token_id`; None is
            all of them. States at the others are made as well, and IF's UNets attend to them.
        """
        return self.encoder(self.shared(input_ids), mask)
