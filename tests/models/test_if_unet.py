"""`PixelUNet`, the UNet of both stages of DeepFloyd IF, against random PyTorch twins of diffusers."""

import functools

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from its_jax.errors import UserError
from its_jax.models import backends, cpu_kernels
from its_jax.models.if_unet import PixelUNet, PixelUNetConfig
from its_jax.models.layers import QUERY_CHUNK
from its_jax.models.state_dict import abstract_arrays, torch_shapes
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

DOWN, CROSS_DOWN = "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"
UP, CROSS_UP = "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"
IF = dict(act_fn="gelu", addition_embed_type="text", cross_attention_norm="group_norm", cross_attention_dim=32,
          encoder_hid_dim=24, encoder_hid_dim_type="text_proj", mid_block_type="UNetMidBlock2DSimpleCrossAttn",
          resnet_time_scale_shift="scale_shift", addition_embed_type_num_heads=6, in_channels=3,
          out_channels=6)  # fmt: skip
UPSCALER = IF | dict(class_embed_type="timestep", time_embedding_act_fn="gelu", resnet_skip_time_act=True,
                     resnet_out_scale_factor=1.4142271248762552, mid_block_scale_factor=1.4142271248762552,
                     in_channels=6)  # fmt: skip

# Config, and the height and width of the image.
TWINS = {
    "stage I in small": (
        IF | dict(down_block_types=[DOWN] + [CROSS_DOWN] * 3, up_block_types=[CROSS_UP] * 3 + [UP], norm_num_groups=4,
                  block_out_channels=[12, 24, 36, 48], attention_head_dim=12, layers_per_block=2),
        (8, 24),
    ),
    "stage II in small": (
        UPSCALER | dict(down_block_types=[DOWN] * 3 + [CROSS_DOWN] * 2, up_block_types=[CROSS_UP] * 2 + [UP] * 3,
                        norm_num_groups=4, block_out_channels=[8, 16, 32, 48, 48], attention_head_dim=8,
                        layers_per_block=[1, 1, 2, 2, 1], time_embedding_dim=40),
        (16, 32),
    ),
    "other sinusoids, sums and activations, attention in chunks": (
        IF | dict(down_block_types=[CROSS_DOWN, DOWN], up_block_types=[UP, CROSS_UP], norm_num_groups=2,
                  block_out_channels=[8, 16], attention_head_dim=4, layers_per_block=1, flip_sin_to_cos=False,
                  freq_shift=1, time_embedding_act_fn="gelu", time_embedding_dim=20, norm_eps=1e-3,
                  resnet_out_scale_factor=1.5, mid_block_scale_factor=0.7, out_channels=2),
        (32, 2 * QUERY_CHUNK // 32),
    ),
    "no activation of the embedding": (
        UPSCALER | dict(down_block_types=[CROSS_DOWN], up_block_types=[CROSS_UP], block_out_channels=[8],
                        norm_num_groups=8, attention_head_dim=8, layers_per_block=1, time_embedding_act_fn=None),
        (3, 5),
    ),
}  # fmt: skip

call = jit(lambda model, *inputs: model(*inputs))


@functools.cache
def torch_twin(name):
    """Returns the PyTorch model, our config for it, inputs, and its output."""
    raw, size = TWINS[name]
    twin = randomize(diffusers.UNet2DConditionModel(**raw))
    config = PixelUNetConfig.from_dict(dict(twin.config))
    inputs = [normal((2, *size, config.in_channels)), np.array([957, 3]), normal((2, 7, config.encoder_hid_dim), 1)]
    if config.class_embed_type:
        inputs.append(np.array([50, 249]))
    return twin, config, inputs, torch_result(lambda *x: twin(*x).sample, *inputs)


@functools.cache
def our_model(name):
    """Returns our model with the weights of `torch_twin(name)`. Tests share it, because it takes seconds to build."""
    twin, config, _, _ = torch_twin(name)
    return loaded(PixelUNet, config, twin)


@pytest.mark.parametrize("name", TWINS)
def test_unet_equals_the_pytorch_twin(name, highest_precision):
    _, _, inputs, expected = torch_twin(name)
    assert_equal(call(our_model(name), *inputs), expected)


def test_texts_can_be_projected_once(highest_precision):
    _, _, (x, t, text, level), _ = torch_twin("no activation of the embedding")
    model = our_model("no activation of the embedding")
    projected = jit(lambda model, text: model.project_text(text))(model, text)
    predicted = jit(lambda model, *a: model.predict(*a))(model, x, t, projected, level)
    np.testing.assert_allclose(predicted, call(model, x, t, text, level), rtol=0, atol=1e-5)


def test_unet_in_bfloat16_is_close_to_the_pytorch_twin():
    twin, config, inputs, expected = torch_twin("stage II in small")
    model = loaded(PixelUNet, config, twin, jnp.bfloat16)
    assert_rounded(model, twin)
    assert_close(call(model, *inputs), expected)


def test_inputs_that_do_not_fit_the_model_are_refused():
    _, _, (x, t, text, level), _ = torch_twin("stage II in small")
    model = our_model("stage II in small")
    with pytest.raises(UserError, match="16 x 24 pixels: this model takes only multiples of 16"):
        model(x[:, :, :24], t, text, level)
    with pytest.raises(UserError, match="is an upscaler and needs level"):
        model(x, t, text)
    _, _, (x, t, text), _ = torch_twin("stage I in small")
    with pytest.raises(UserError, match="is not an upscaler and takes no level"):
        our_model("stage I in small")(x, t, text, level)


@pytest.mark.parametrize("name", ["if_i_m", "if_i_xl", "if_ii_m", "if_ii_l"])
def test_the_full_size_model_has_the_published_parameters(name):
    config = PixelUNetConfig.from_dict(read("configs", f"{name}.unet"))
    published = {key: tuple(shape) for key, shape in read("shapes", f"{name}.unet").items()}
    assert torch_shapes(abstract_arrays(PixelUNet, config)) == published


def test_the_published_shapes_equal_diffusers():
    with torch.device("meta"):
        twin = diffusers.UNet2DConditionModel.from_config(read("configs", "if_ii_m.unet"))
    published = read("shapes", "if_ii_m.unet")
    assert {key: list(value.shape) for key, value in twin.state_dict().items()} == published


@pytest.mark.parametrize(
    "change, named",
    [
        ({"rope_theta": 1e4}, "rope_theta"),
        ({"act_fn": "silu"}, "act_fn='silu' is not supported, only 'gelu'"),
        ({"act_fn": ...}, "act_fn='silu' is not supported"),
        ({"resnet_time_scale_shift": ...}, "resnet_time_scale_shift='default'"),
        ({"addition_embed_type": ...}, "addition_embed_type=None"),
        ({"cross_attention_norm": ...}, "cross_attention_norm=None"),
        ({"encoder_hid_dim": ...}, "'encoder_hid_dim' is missing"),
        ({"encoder_hid_dim": None}, "encoder_hid_dim=None"),
        ({"encoder_hid_dim_type": "image_proj"}, "encoder_hid_dim_type"),
        ({"class_embed_type": "projection"}, "class_embed_type='projection' is not supported, only None or 'timestep'"),
        ({"time_embedding_act_fn": "silu"}, "time_embedding_act_fn"),
        ({"only_cross_attention": True}, "only_cross_attention"),
        ({"mid_block_only_cross_attention": True}, "mid_block_only_cross_attention"),
        ({"mid_block_type": None}, "mid_block_type"),
        ({"attention_head_dim": [64, 64, 64, 64]}, "attention_head_dim"),
        ({"attention_head_dim": 100}, "multiple of 100, the attention_head_dim"),
        ({"norm_num_groups": 48}, "multiple of 48, the norm_num_groups"),
        ({"cross_attention_dim": 700}, "multiple of 32, the groups of cross_attention_norm"),
        ({"addition_embed_type_num_heads": 60}, "multiple of 60, the addition_embed_type_num_heads"),
        ({"down_block_types": ["DownBlock2D"] * 4}, "DownBlock2D"),
        ({"up_block_types": [UP] * 3}, "up_block_types"),
        ({"layers_per_block": [2, 2, 2]}, "layers_per_block"),
        ({"block_out_channels": 320}, "block_out_channels"),
        ({"in_channels": 0}, "in_channels"),
    ],
)
def test_an_unsupported_config_is_refused(change, named):
    raw = {**read("configs", "if_i_xl.unet"), **change}
    with pytest.raises(UserError, match=named):
        PixelUNetConfig.from_dict({key: value for key, value in raw.items() if value is not ...})


@pytest.mark.parametrize("prepare", [False, True])
def test_cpu_kernels_support_the_unet(prepare):
    """Uses bfloat16, in which narrow layers are not excluded."""
    twin, config, inputs, expected = torch_twin("no activation of the embedding")
    model = loaded(PixelUNet, config, twin, jnp.bfloat16)
    backends.specialize(model, prepare=prepare)
    assert model.down_blocks[0].attentions[0].attend is cpu_kernels.attend
    assert_close(call(model, *inputs), expected)
