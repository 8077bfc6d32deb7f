"""`UNet2DConditionModel` against random PyTorch twins of diffusers."""

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest

from its_jax.errors import UserError
from its_jax.models.layers import QUERY_CHUNK, timestep_embedding
from its_jax.models.state_dict import abstract_arrays, torch_shapes
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from its_jax.pipeline import prompts
from tests.helpers.random_weights import randomize
from tests.helpers.torch_twins import (
    assert_close,
    assert_equal,
    assert_rounded,
    jit,
    loaded,
    normal,
    read,
    torch_result,
)

CROSS_DOWN, DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, UP = "CrossAttnUpBlock2D", "UpBlock2D"

# Config, and the height and width of the latent.
TWINS = {
    "sd 1.5 in small, odd latent": (
        dict(down_block_types=[CROSS_DOWN] * 3 + [DOWN], up_block_types=[UP] + [CROSS_UP] * 3,
             block_out_channels=[16, 24, 32, 32], attention_head_dim=4, norm_num_groups=8,
             cross_attention_dim=20),
        (7, 10),
    ),
    "heads per block, one layer, linear projections": (
        dict(down_block_types=[CROSS_DOWN, CROSS_DOWN, DOWN], up_block_types=[CROSS_UP, UP, CROSS_UP],
             block_out_channels=[16, 24, 40], attention_head_dim=[2, 3, 5], layers_per_block=1,
             norm_num_groups=4, cross_attention_dim=9, use_linear_projection=True, norm_eps=1e-3),
        (9, 6),
    ),
    "attention at unusual places, layers per block": (
        dict(down_block_types=[DOWN, CROSS_DOWN, DOWN], up_block_types=[CROSS_UP, UP, CROSS_UP],
             block_out_channels=[24, 8, 16], attention_head_dim=[3, 1, 2], layers_per_block=[1, 2, 1],
             transformer_layers_per_block=[1, 1, 2], norm_num_groups=2, cross_attention_dim=24,
             in_channels=5, out_channels=3),
        (5, 13),
    ),
    "sinusoids of other models, three layers": (
        dict(down_block_types=[DOWN, CROSS_DOWN], up_block_types=[UP, CROSS_UP],
             block_out_channels=[15, 30], attention_head_dim=3, layers_per_block=3,
             norm_num_groups=5, cross_attention_dim=7, flip_sin_to_cos=False,
             freq_shift=1, in_channels=1, out_channels=2),
        (3, 3),
    ),
    "one resolution, attention in chunks": (
        dict(down_block_types=[CROSS_DOWN], up_block_types=[CROSS_UP], block_out_channels=[8],
             attention_head_dim=2, layers_per_block=1, norm_num_groups=1, cross_attention_dim=8),
        (32, 2 * QUERY_CHUNK // 32),
    ),
    "deeper transformers, one query too many for a chunk": (
        dict(down_block_types=[CROSS_DOWN], up_block_types=[UP], block_out_channels=[8],
             attention_head_dim=8, layers_per_block=1, transformer_layers_per_block=2,
             norm_num_groups=4, cross_attention_dim=8),
        (3, (QUERY_CHUNK + 1) // 3),
    ),
}  # fmt: skip

call = jit(lambda model, *inputs: model(*inputs))


def torch_twin(name):
    """Returns the PyTorch model, our config for it, inputs, and its output."""
    raw, size = TWINS[name]
    twin = randomize(diffusers.UNet2DConditionModel(**raw))
    config = UNetConfig.from_dict(dict(twin.config))
    inputs = (
        normal((2, *size, config.in_channels)),
        np.array([981, 3]),
        normal((2, 5, config.cross_attention_dim), 1),
    )
    return twin, config, inputs, torch_result(lambda *x: twin(*x).sample, *inputs)


@pytest.mark.parametrize("name", TWINS)
def test_unet_equals_the_pytorch_twin(name, highest_precision):
    twin, config, inputs, expected = torch_twin(name)
    model = loaded(UNet2DConditionModel, config, twin)
    assert_equal(call(model, *inputs), expected)


def test_projections_of_time_and_text_can_be_computed_once(highest_precision):
    twin, config, (x, _, text), _ = torch_twin("attention at unusual places, layers per block")
    model = loaded(UNet2DConditionModel, config, twin)
    prepared, texts = prompts.precompute_unet(model, 30), jit(lambda model, text: model.project_text(text))(model, text)
    t = np.array([21, 21])
    np.testing.assert_allclose(call(prepared, x, t, texts), call(model, x, t, text), rtol=0, atol=1e-6)
    # The program of a step contains no part of them.
    step = call.lower(prepared, x, t, texts).as_text()
    assert "stablehlo.sine" in call.lower(model, x, t, text).as_text() and "stablehlo.sine" not in step


# The last layer has attention of two blocks, of one, and none.
@pytest.mark.parametrize("name", [*list(TWINS)[2:3], *list(TWINS)[4:]])
def test_the_last_layer_continues_from_inner_features(name, highest_precision):
    twin, config, (x, _, text), _ = torch_twin(name)
    model = loaded(UNet2DConditionModel, config, twin)
    prepared, texts = prompts.precompute_unet(model, 30), jit(lambda model, text: model.project_text(text))(model, text)
    t = np.array([21, 21])
    eps, features = jit(lambda model, *a: model.with_features(*a))(prepared, x, t, texts)
    reuse = jit(lambda model, *a: model.from_features(*a))
    np.testing.assert_array_equal(eps, call(prepared, x, t, texts))
    np.testing.assert_allclose(reuse(prepared, x, t, texts, features), eps, rtol=0, atol=1e-5)
    other = call(prepared, 1.1 * x, t, texts)
    np.testing.assert_array_less(1e-4, np.abs(reuse(prepared, 1.1 * x, t, texts, features) - other).max())


def test_unet_in_bfloat16_is_close_to_the_pytorch_twin():
    twin, config, inputs, expected = torch_twin("deeper transformers, one query too many for a chunk")
    model = loaded(UNet2DConditionModel, config, twin, jnp.bfloat16)
    assert_rounded(model, twin)
    assert_close(call(model, *inputs), expected)


def test_timestep_embedding_equals_diffusers_at_all_timesteps():
    t = np.arange(1000)
    for flip, shift, features in ((True, 0, 320), (False, 1, 33)):
        twin = diffusers.models.embeddings.Timesteps(features, flip, shift)
        found = timestep_embedding(jnp.asarray(t), features, flip_sin_to_cos=flip, freq_shift=shift)
        # The float32 spacing of angles near 1000 rad is 6e-5.
        np.testing.assert_allclose(found, torch_result(twin, t), rtol=0, atol=1e-4)


def test_full_size_unet_has_the_published_parameters():
    config = UNetConfig.from_dict(read("configs", "sd15.unet"))
    assert torch_shapes(abstract_arrays(UNet2DConditionModel, config)) == {
        k: tuple(v) for k, v in read("shapes", "sd15.unet").items()
    }


def test_later_fields_and_ema_fields_do_not_change_the_config():
    assert UNetConfig.from_dict(read("configs", "auffusion.unet")) == UNetConfig.from_dict(read("configs", "sd15.unet"))


@pytest.mark.parametrize(
    "change, named",
    [
        ({"rope_theta": 1e4}, "rope_theta"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"num_attention_heads": 8}, "num_attention_heads"),
        ({"only_cross_attention": [True, False, False, False]}, "only_cross_attention"),
        ({"mid_block_type": None}, "mid_block_type"),
        ({"conv_in_kernel": 1}, "conv_in_kernel"),
        ({"cross_attention_dim": [768, 768, 768, 768]}, "cross_attention_dim"),
        ({"norm_num_groups": None}, "norm_num_groups"),
        ({"norm_num_groups": 48}, "norm_num_groups"),
        ({"in_channels": "4"}, "in_channels"),
        ({"block_out_channels": 320}, "block_out_channels"),
        ({"transformer_layers_per_block": [[1, 1], [1, 1], [1, 1], [1, 1]]}, "transformer_layers_per_block"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "AttnDownBlock2D"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types"),
        ({"layers_per_block": [2, 2, 2]}, "layers_per_block"),
        ({"attention_head_dim": [8, 8, 8]}, "attention_head_dim"),
        ({"attention_head_dim": 7}, "7 attention heads"),
        ({"attention_head_dim": 0}, "attention_head_dim"),
    ],
)
def test_an_unsupported_config_is_refused(change, named):
    with pytest.raises(UserError, match=named):
        UNetConfig.from_dict({**read("configs", "sd15.unet"), **change})
