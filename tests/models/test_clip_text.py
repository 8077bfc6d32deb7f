"""`CLIPTextModel` against PyTorch twins of transformers, loaded by the naming rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from its_jax.errors import UserError
from its_jax.models.clip_text import CLIPTextConfig, CLIPTextModel
from its_jax.models.state_dict import torch_shapes
from tests.helpers.random_weights import randomize
from tests.helpers.torch_twins import TOLERANCE, assert_close, assert_rounded, loaded, read

TEXT = {
    "quick_gelu": dict(vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                       num_attention_heads=4, max_position_embeddings=77),
    "gelu, odd sizes": dict(vocab_size=51, hidden_size=21, intermediate_size=37, num_hidden_layers=3,
                            num_attention_heads=3, max_position_embeddings=13, hidden_act="gelu",
                            layer_norm_eps=1e-3),
    "one head": dict(vocab_size=17, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                     num_attention_heads=1, max_position_embeddings=5, eos_token_id=2),
}  # fmt: skip


def text_twin(name):
    """Returns the PyTorch model and its config."""
    ids = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2)
    twin = randomize(transformers.CLIPTextModel(transformers.CLIPTextConfig(**{**ids, **TEXT[name]})))
    return twin, twin.config.to_dict()


def text_states(twin, length):
    """Returns token ids `[2, n]` and their hidden states `[2, n, d]`."""
    ids = np.random.default_rng(length).integers(0, twin.config.vocab_size, (2, length))
    with torch.no_grad():
        return ids, twin(torch.from_numpy(ids)).last_hidden_state.numpy()


call = jax.jit(lambda model, x: model(x))


@pytest.mark.parametrize("name", TEXT)
def test_text_encoder_equals_the_pytorch_twin(name, highest_precision):
    twin, raw = text_twin(name)
    model = loaded(CLIPTextModel, CLIPTextConfig.from_dict(raw), twin)
    for length in (raw["max_position_embeddings"], 3):
        ids, expected = text_states(twin, length)
        np.testing.assert_allclose(call(model, ids), expected, rtol=0, atol=TOLERANCE)


def test_text_encoder_in_bfloat16_is_close_to_the_pytorch_twin():
    twin, raw = text_twin("quick_gelu")
    model = loaded(CLIPTextModel, CLIPTextConfig.from_dict(raw), twin, jnp.bfloat16)
    assert_rounded(model, twin)
    ids, expected = text_states(twin, 9)
    assert_close(call(model, ids), expected)


def test_text_encoder_is_causal():
    twin, raw = text_twin("quick_gelu")
    model = loaded(CLIPTextModel, CLIPTextConfig.from_dict(raw), twin)
    ids = np.arange(20).reshape(2, 10)
    changed = np.where(np.arange(10) >= 6, 50, ids)
    before, after = call(model, ids), call(model, changed)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (jnp.abs(before - after)[:, 6:].max(axis=-1) > 0).all()


def test_the_full_size_model_has_the_published_parameters():
    config = CLIPTextConfig.from_dict(read("configs", "sd15.text_encoder"))
    model = nnx.eval_shape(lambda: CLIPTextModel(config, rngs=nnx.Rngs(0)))
    published = {k.removeprefix("text_model."): tuple(v) for k, v in read("shapes", "sd15.text_encoder").items()}
    del published["embeddings.position_ids"]  # a constant that old versions saved
    assert torch_shapes(model) == published


@pytest.mark.parametrize(
    "change, named",
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"model_type": "t5"}, "model_type"),
        ({"rope_theta": 1e4}, "rope_theta"),
    ],
)
def test_an_unsupported_config_is_refused(change, named):
    with pytest.raises(UserError, match=named):
        CLIPTextConfig.from_dict({**read("configs", "sd15.text_encoder"), **change})
