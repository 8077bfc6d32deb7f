"""`T5EncoderModel` against random PyTorch twins of transformers, through the names of `convert`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from convert.names import canonical
from convert.tensors import Tensor
from its_jax.errors import UserError
from its_jax.models.state_dict import abstract_arrays, load_state_dict, to_state_dict, torch_shapes
from its_jax.models.t5 import T5Config, T5EncoderModel, relative_position_buckets
from tests.helpers.random_weights import randomize_t5
from tests.helpers.torch_twins import assert_close, assert_equal, jit, read

SMALL = dict(vocab_size=99, d_model=24, d_kv=8, d_ff=40, num_layers=3, num_heads=3, feed_forward_proj="gated-gelu")
TWINS = {
    "v1.1 in small": SMALL,
    "heads wider than the model, few buckets": SMALL | dict(
        d_kv=16, relative_attention_num_buckets=8, relative_attention_max_distance=20, layer_norm_epsilon=1e-3,
        num_layers=2,
    ),
}  # fmt: skip
LENGTHS = (1, 30, 77)  # in tokens, before padding to 77


def torch_twin(name):
    """Returns the PyTorch model, our config for it, and padded texts."""
    twin = randomize_t5(transformers.T5EncoderModel(transformers.T5Config(**TWINS[name])))
    ids = np.random.default_rng(0).integers(3, 99, (3, 77))
    for row, length in zip(ids, LENGTHS, strict=True):
        row[length - 1], row[length:] = 1, 0
    return twin, T5Config.from_dict(twin.config.to_dict()), ids


def converted(config, twin, dtype=jnp.float32):
    tensors = canonical({key: Tensor("float32", value.numpy) for key, value in twin.state_dict().items()})
    model = abstract_arrays(T5EncoderModel, config, dtype=dtype, param_dtype=dtype)
    return load_state_dict(model, {key: tensor.read() for key, tensor in tensors.items()})


def states(twin, ids, mask=None):
    with torch.no_grad():
        mask = None if mask is None else torch.from_numpy(mask)
        return twin(torch.from_numpy(ids), attention_mask=mask).last_hidden_state.float().numpy()


call = jit(lambda model, *inputs: model(*inputs))


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("masked", [True, False])
def test_t5_equals_the_pytorch_twin(name, masked, highest_precision):
    """Includes the states of padding, which IF's UNets attend to."""
    twin, config, ids = torch_twin(name)
    mask = [ids != config.pad_token_id] if masked else []
    assert_equal(call(converted(config, twin), ids, *mask), states(twin, ids, *mask))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_residual_stream_is_float32_in_16_bit_models(dtype):
    twin, config, ids = torch_twin("v1.1 in small")
    mask = ids != config.pad_token_id
    model = converted(config, twin, dtype)
    for key, value in to_state_dict(model).items():
        assert value.dtype == (jnp.float32 if ".wo." in key else dtype), key
    found = call(model, ids, mask)
    assert found.dtype == dtype
    assert_close(found.astype(jnp.bfloat16), states(twin, ids, mask))
    # A model whose residual stream overflows float16 has finite results.
    large = jax.tree.map(lambda w: 1e6 * w if w.shape == (config.d_ff, config.d_model) else w, model)
    assert np.isfinite(call(large, ids, mask).astype(jnp.float32)).all()


@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (8, 20), (16, 5), (64, 1000)])
def test_relative_position_buckets_equal_transformers(num_buckets, max_distance):
    offset = torch.arange(300)[None] - torch.arange(300)[:, None]
    theirs = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    expected = theirs(offset, bidirectional=True, num_buckets=num_buckets, max_distance=max_distance)
    np.testing.assert_array_equal(relative_position_buckets(300, num_buckets, max_distance), expected)


def test_the_full_size_model_has_the_published_parameters():
    published = {key: Tensor("float32", None) for key in read("shapes", "if.text_encoder")}
    model = abstract_arrays(T5EncoderModel, T5Config.from_dict(read("configs", "if.text_encoder")))
    shapes = {key: tuple(read("shapes", "if.text_encoder")[key]) for key in canonical(published)}
    assert torch_shapes(model) == shapes
    assert sum(np.prod(shape) for shape in shapes.values()) == 4_762_310_656


@pytest.mark.parametrize(
    "change, named",
    [
        ({"rope_theta": 1e4}, "rope_theta"),
        ({"feed_forward_proj": "relu"}, "feed_forward_proj='relu' is not supported, only 'gated-gelu'"),
        ({"feed_forward_proj": ...}, "feed_forward_proj='relu'"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn"),
        ({"is_decoder": True}, "is_decoder"),
        ({"model_type": "mt5"}, "model_type"),
        ({"d_kv": 0}, "d_kv"),
        ({"relative_attention_num_buckets": 30}, "relative_attention_num_buckets=30 must be a multiple of 4"),
        ({"relative_attention_max_distance": 8}, "relative_attention_max_distance=8"),
    ],
)
def test_an_unsupported_config_is_refused(change, named):
    raw = {**read("configs", "if.text_encoder"), **change}
    with pytest.raises(UserError, match=named):
        T5Config.from_dict({key: value for key, value in raw.items() if value is not ...})
