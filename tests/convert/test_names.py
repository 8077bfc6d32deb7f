"""Names of tensors: those of any age become current ones."""

import numpy as np
import pytest
import torch

from convert import conversion
from convert.names import canonical
from convert.tensors import Tensor, open_tensors
from its_jax.errors import UserError
from tests.helpers import model_folder
from tests.helpers.conversions import hashes
from tests.helpers.torch_twins import normal

VAE = "vae/diffusion_pytorch_model.safetensors"


def lazy(**arrays):
    return {key.replace("__", "."): Tensor(str(a.dtype), lambda a=a: a) for key, a in arrays.items()}


def test_attention_of_old_vaes_gets_current_names(vae_only, original_hashes, tmp_path):
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(state):
        for key in [key for key in state if ".attentions.0.to_" in key]:
            current = next(name for name in old_names if name in key)
            value = state.pop(key)
            old = value[:, :, None, None].contiguous() if value.ndim == 2 else value
            state[key.replace(current, old_names[current])] = old

    model_folder.edit(vae_only / VAE, rename)
    assert "encoder.mid_block.attentions.0.query.weight" in open_tensors(vae_only / VAE)
    assert hashes(conversion.convert(str(vae_only), tmp_path / "out"))["vae"] == original_hashes["vae"]


def test_prefix_and_positions_of_old_text_encoders_are_dropped():
    x = np.zeros(2, np.float32)
    tensors = lazy(text_model__embeddings__position_ids=np.arange(2), text_model__final_layer_norm__bias=x)
    assert list(canonical(tensors)) == ["final_layer_norm.bias"]


@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm])
def test_weight_norm_of_old_and_new_pytorch_is_merged(norm):
    twin = model_folder.small_vocoder()
    state = {key: Tensor("float32", value.numpy) for key, value in model_folder.weight_normed(twin, norm).items()}
    merged = canonical(state)
    assert merged.keys() == twin.state_dict().keys() != state.keys()
    for key, value in twin.state_dict().items():
        np.testing.assert_allclose(merged[key].read(), value, rtol=2e-6, atol=2e-7)


def test_one_tensor_under_two_names_is_an_error():
    x = normal((2, 2))
    with pytest.raises(UserError, match="'a.attentions.0.query.weight' and 'a.attentions.0.to_q.weight' have the same"):
        canonical(lazy(a__attentions__0__query__weight=x, a__attentions__0__to_q__weight=x))
