"""`AutoencoderKL` against random PyTorch twins of diffusers."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from its_jax.errors import UserError
from its_jax.models.layers import QUERY_CHUNK
from its_jax.models.state_dict import abstract_arrays, torch_shapes
from its_jax.models.vae import AutoencoderKL, VAEConfig
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

# Config, and the height and width of the image.
TWINS = {
    "sd 1.5 in small": (
        dict(block_out_channels=[8, 16, 32, 32], layers_per_block=2, norm_num_groups=8), (24, 40)
    ),
    "no quant convolutions, odd image": (
        dict(block_out_channels=[6, 15, 9], norm_num_groups=3, latent_channels=3, in_channels=1,
             out_channels=2, use_quant_conv=False, use_post_quant_conv=False),
        (23, 14),
    ),
    "no attention, odd image": (
        dict(block_out_channels=[10, 5], norm_num_groups=5, layers_per_block=3, latent_channels=2,
             mid_block_add_attention=False, use_post_quant_conv=False),
        (9, 11),
    ),
    "one resolution, attention in chunks": (
        dict(block_out_channels=[4], norm_num_groups=2, latent_channels=1, use_quant_conv=False),
        (32, 2 * QUERY_CHUNK // 32),
    ),
}  # fmt: skip


@jit
def encode(model, image, key):
    """Returns the posterior and a sample of it."""
    posterior = model.encode(image)
    return posterior, posterior.sample(key)


decode = jit(lambda model, z: model.decode(z))


def torch_twin(name):
    """Returns the PyTorch model, our config for it, and a batch of two images."""
    raw, size = TWINS[name]
    n = len(raw["block_out_channels"])
    blocks = dict(down_block_types=["DownEncoderBlock2D"] * n, up_block_types=["UpDecoderBlock2D"] * n)
    twin = randomize(diffusers.AutoencoderKL(**raw, **blocks))
    config = VAEConfig.from_dict(dict(twin.config))
    return twin, config, np.tanh(normal((2, *size, config.in_channels)))


@pytest.mark.parametrize("name", TWINS)
def test_encoder_equals_the_pytorch_twin(name, highest_precision):
    """Compares mean, log-variance, and a sample from the same noise."""
    twin, config, image = torch_twin(name)
    key = jax.random.key(3)
    posterior, sample = encode(loaded(AutoencoderKL, config, twin), image, key)
    noise = np.array(jax.random.normal(key, sample.shape))

    def torch_encode(image, noise):
        posterior = twin.encode(image).latent_dist
        return torch.cat([posterior.mean, posterior.logvar, posterior.mean + posterior.std * noise], dim=1)

    expected = np.split(torch_result(torch_encode, image, noise), 3, axis=-1)
    for found, one in zip((posterior.mean, posterior.log_variance, sample), expected, strict=True):
        assert_equal(found, one)


@pytest.mark.parametrize("name", TWINS)
def test_decoder_equals_the_pytorch_twin(name, highest_precision):
    twin, config, image = torch_twin(name)
    h, w = (size // config.factor for size in image.shape[1:3])
    z = normal((2, h, w, config.latent_channels), seed=1)
    found = decode(loaded(AutoencoderKL, config, twin), z)
    assert found.shape[1:3] == (h * config.factor, w * config.factor)
    assert_equal(found, torch_result(lambda z: twin.decode(z).sample, z))


def test_log_variance_is_clipped():
    twin, config, image = torch_twin("no attention, odd image")
    for bias, limit in ((-99.0, -30.0), (99.0, 20.0)):
        twin.quant_conv.bias.data[config.latent_channels :] = bias
        posterior, _ = encode(loaded(AutoencoderKL, config, twin), image, jax.random.key(0))
        log_variance = posterior.log_variance
        np.testing.assert_array_equal(log_variance, np.full(log_variance.shape, limit, np.float32))


def test_vae_in_bfloat16_is_close_to_the_pytorch_twin():
    twin, config, image = torch_twin("no quant convolutions, odd image")
    model = loaded(AutoencoderKL, config, twin, jnp.bfloat16)
    assert_rounded(model, twin)
    posterior, sample = encode(model, image, jax.random.key(0))
    assert sample.dtype == jnp.bfloat16
    assert_close(posterior.mean, torch_result(lambda x: twin.encode(x).latent_dist.mean, image))
    z = normal(posterior.mean.shape)
    assert_close(decode(model, z), torch_result(lambda z: twin.decode(z).sample, z))


def test_full_size_vae_has_the_published_parameters():
    config = VAEConfig.from_dict(read("configs", "sd15.vae"))
    assert torch_shapes(abstract_arrays(AutoencoderKL, config)) == {
        k: tuple(v) for k, v in read("shapes", "sd15.vae").items()
    }
    assert config.scaling_factor == 0.18215 and config.factor == 8


@pytest.mark.parametrize(
    "change, named",
    [
        ({"patch_size": 2}, "patch_size"),
        ({"shift_factor": 0.0609}, "shift_factor"),
        ({"latents_mean": [0.0, 0.0, 0.0, 0.0]}, "latents_mean"),
        ({"act_fn": "gelu"}, "act_fn"),
        ({"layers_per_block": [2, 2, 2, 2]}, "layers_per_block"),
        ({"norm_num_groups": 48}, "norm_num_groups"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "up_block_types"),
    ],
)
def test_an_unsupported_config_is_refused(change, named):
    with pytest.raises(UserError, match=named):
        VAEConfig.from_dict({**read("configs", "sd15.vae"), **change})
