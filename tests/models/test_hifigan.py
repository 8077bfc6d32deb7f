"""HiFi-GAN's `Generator` against PyTorch twins, loaded by the naming rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from convert.torch_vocoder import TorchGenerator
from its_jax.errors import UserError
from its_jax.models.hifigan import Generator, VocoderConfig
from its_jax.models.state_dict import torch_shapes
from tests.helpers.random_weights import randomize
from tests.helpers.torch_twins import TOLERANCE, assert_rounded, loaded, normal, read, torch_result

FRONT_END = dict(sampling_rate=16000, n_fft=2048, win_size=1024, fmin=0, fmax=None)
VOCODER = {
    "resblock 1": dict(resblock="1", upsample_rates=[5, 4], upsample_kernel_sizes=[11, 8], hop_size=20,
                       upsample_initial_channel=16, num_mels=12, resblock_kernel_sizes=[3, 7, 11],
                       resblock_dilation_sizes=[[1, 3, 5]] * 3),
    "resblock 2": dict(resblock="2", upsample_rates=[4, 2, 2], upsample_kernel_sizes=[8, 4, 4], hop_size=16,
                       upsample_initial_channel=24, num_mels=5, resblock_kernel_sizes=[3, 5],
                       resblock_dilation_sizes=[[1, 2], [2, 6]]),
    "odd kernel minus stride": dict(resblock="1", upsample_rates=[5, 3], upsample_kernel_sizes=[8, 4],
                                    hop_size=15, upsample_initial_channel=8, num_mels=7,
                                    resblock_kernel_sizes=[5], resblock_dilation_sizes=[[1, 2]]),
    "kernel equals stride": dict(resblock="2", upsample_rates=[3], upsample_kernel_sizes=[3], hop_size=3,
                                 upsample_initial_channel=6, num_mels=4, resblock_kernel_sizes=[1, 3],
                                 resblock_dilation_sizes=[[1], [4]]),
}  # fmt: skip


def vocoder_twin(name):
    raw = {**VOCODER[name], **FRONT_END}
    return randomize(TorchGenerator(raw)), VocoderConfig.from_dict(raw)


def vocoder_waveform(twin, config, frames):
    log_mel = np.random.default_rng(frames).uniform(-3, 3, (2, frames, config.num_mels)).astype(np.float32)
    with torch.no_grad():
        return log_mel, twin(torch.from_numpy(log_mel).mT)[:, 0].numpy()


call = jax.jit(lambda model, x: model(x))


@pytest.mark.parametrize("name", VOCODER)
def test_vocoder_equals_the_pytorch_twin(name, highest_precision):
    twin, config = vocoder_twin(name)
    model = loaded(Generator, config, twin)
    for frames in (17, 6):
        log_mel, expected = vocoder_waveform(twin, config, frames)
        assert 0.05 < expected.std() < 0.95, "the twin must neither fade out nor saturate"
        waveform = call(model, log_mel)
        assert waveform.dtype == jnp.float32 and waveform.shape == expected.shape
        np.testing.assert_allclose(waveform, expected, rtol=0, atol=TOLERANCE)


def test_vocoder_in_bfloat16_is_close_to_the_pytorch_twin():
    twin, config = vocoder_twin("resblock 1")
    model = loaded(Generator, config, twin, jnp.bfloat16)
    assert_rounded(model, twin)
    log_mel, expected = vocoder_waveform(twin, config, 9)
    waveform = call(model, log_mel)
    assert waveform.dtype == jnp.float32
    assert np.linalg.norm(waveform - expected) < 0.03 * np.linalg.norm(expected)


def test_the_pytorch_twin_equals_hifigan_of_transformers():
    """The other tests compare with a generator that this project wrote in PyTorch, so it is tested here."""
    raw = read("configs", "auffusion.vocoder") | {"upsample_initial_channel": 64, "num_mels": 6}
    names = ("upsample_initial_channel", "upsample_rates", "upsample_kernel_sizes")
    names += ("resblock_kernel_sizes", "resblock_dilation_sizes")
    shared = {name: raw[name] for name in names}
    other = transformers.SpeechT5HifiGan(
        transformers.SpeechT5HifiGanConfig(model_in_dim=6, leaky_relu_slope=0.1, normalize_before=False, **shared)
    )
    twin = randomize(TorchGenerator(raw))
    state = {key.replace("ups.", "upsampler."): value for key, value in twin.state_dict().items()}
    assert set(other.load_state_dict(state, strict=False).missing_keys) <= {"mean", "scale"}
    log_mel = normal((1, 9, 6))
    expected = torch_result(lambda x: other.eval()(x), log_mel)
    np.testing.assert_allclose(torch_result(lambda x: twin(x.mT)[:, 0], log_mel), expected, rtol=0, atol=1e-5)


def test_the_full_size_model_has_the_published_parameters():
    config = VocoderConfig.from_dict(read("configs", "auffusion.vocoder"))
    model = nnx.eval_shape(lambda: Generator(config, rngs=nnx.Rngs(0)))
    # With weight normalization `weight_v`, the direction, has the shape of the weight. `weight_g` is the magnitude.
    shapes = read("shapes", "auffusion.vocoder").items()
    folded = {k.replace("weight_v", "weight"): tuple(v) for k, v in shapes if not k.endswith("weight_g")}
    assert torch_shapes(model) == folded


@pytest.mark.parametrize(
    "change, named",
    [
        ({"resblock": "3"}, "resblock"),
        ({"upsample_rates": [5, 4, 8]}, "upsample_kernel_sizes"),
        ({"upsample_kernel_sizes": [3, 8, 8, 4]}, "upsample_kernel_sizes"),
        ({"resblock_dilation_sizes": [[1, 3, 5]]}, "resblock_dilation_sizes"),
        ({"resblock_kernel_sizes": [3, 4, 11]}, "resblock_kernel_sizes"),
        ({"upsample_initial_channel": 24}, "upsample_initial_channel"),
        ({"hop_size": 256}, "hop_size"),
        ({"harmonic_num": 8}, "harmonic_num"),
    ],
)
def test_an_unsupported_config_is_refused(change, named):
    with pytest.raises(UserError, match=named):
        VocoderConfig.from_dict({**read("configs", "auffusion.vocoder"), **change})
