"""`CLIPTextModel` and HiFi-GAN's `Generator` against PyTorch twins, through the production weight rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from convert.torch_vocoder import TorchGenerator
from its_jax.errors import UserError
from its_jax.models.clip_text import CLIPTextConfig, CLIPTextModel
from its_jax.models.hifigan import Generator, VocoderConfig
from its_jax.models.state_dict import torch_shapes
from tests.helpers.random_weights import randomize
from tests.helpers.torch_twins import TOLERANCE, assert_rounded, loaded, normal, read, torch_result

TEXT = {
    "quick_gelu": dict(vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                       num_attention_heads=4, max_position_embeddings=77),
    "gelu, odd sizes": dict(vocab_size=51, hidden_size=21, intermediate_size=37, num_hidden_layers=3,
                            num_attention_heads=3, max_position_embeddings=13, hidden_act="gelu",
                            layer_norm_eps=1e-3),
    "one head": dict(vocab_size=17, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                     num_attention_heads=1, max_position_embeddings=5, eos_token_id=2),
}  # fmt: skip

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


def text_twin(name):
    """Torch model, token ids [2, n] and its hidden states [2, n, d]."""
    ids = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2)
    twin = randomize(transformers.CLIPTextModel(transformers.CLIPTextConfig(**{**ids, **TEXT[name]})))
    return twin, twin.config.to_dict()


def text_states(twin, length):
    ids = np.random.default_rng(length).integers(0, twin.config.vocab_size, (2, length))
    with torch.no_grad():
        return ids, twin(torch.from_numpy(ids)).last_hidden_state.numpy()


def vocoder_twin(name):
    raw = {**VOCODER[name], **FRONT_END}
    return randomize(TorchGenerator(raw)), VocoderConfig.from_dict(raw)


def vocoder_waveform(twin, config, frames):
    log_mel = np.random.default_rng(frames).uniform(-3, 3, (2, frames, config.num_mels)).astype(np.float32)
    with torch.no_grad():
        return log_mel, twin(torch.from_numpy(log_mel).mT)[:, 0].numpy()


call = jax.jit(lambda model, x: model(x))


@pytest.mark.parametrize("name", TEXT)
def test_text_model_is_the_torch_twin(name, highest_precision):
    twin, raw = text_twin(name)
    model = loaded(CLIPTextModel, CLIPTextConfig.from_dict(raw), twin)
    for length in (raw["max_position_embeddings"], 3):
        ids, expected = text_states(twin, length)
        np.testing.assert_allclose(call(model, ids), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", VOCODER)
def test_vocoder_is_the_torch_twin(name, highest_precision):
    twin, config = vocoder_twin(name)
    model = loaded(Generator, config, twin)
    for frames in (17, 6):
        log_mel, expected = vocoder_waveform(twin, config, frames)
        assert 0.05 < expected.std() < 0.95, "the twin must neither fade out nor saturate"
        waveform = call(model, log_mel)
        assert waveform.dtype == jnp.float32 and waveform.shape == expected.shape
        np.testing.assert_allclose(waveform, expected, rtol=0, atol=TOLERANCE)


def test_text_model_in_bfloat16():
    twin, raw = text_twin("quick_gelu")
    model = loaded(CLIPTextModel, CLIPTextConfig.from_dict(raw), twin, jnp.bfloat16)
    assert_rounded(model, twin)
    ids, expected = text_states(twin, 9)
    states = call(model, ids)
    assert states.dtype == jnp.bfloat16
    assert relative_error(states, expected) < 0.03


def test_vocoder_in_bfloat16():
    twin, config = vocoder_twin("resblock 1")
    model = loaded(Generator, config, twin, jnp.bfloat16)
    assert_rounded(model, twin)
    log_mel, expected = vocoder_waveform(twin, config, 9)
    waveform = call(model, log_mel)
    assert waveform.dtype == jnp.float32
    assert relative_error(waveform, expected) < 0.03


def test_pytorchs_side_is_the_hifigan_of_transformers():
    """Ours is compared with a generator that we wrote down in PyTorch; this one is not ours."""
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


def relative_error(found, expected):
    return np.linalg.norm(np.asarray(found, np.float32) - expected) / np.linalg.norm(expected)


def test_text_model_is_causal():
    twin, raw = text_twin("quick_gelu")
    model = loaded(CLIPTextModel, CLIPTextConfig.from_dict(raw), twin)
    ids = np.arange(20).reshape(2, 10)
    changed = np.where(np.arange(10) >= 6, 50, ids)
    before, after = call(model, ids), call(model, changed)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (jnp.abs(before - after)[:, 6:].max(axis=-1) > 0).all()


def test_full_size_text_encoder_has_the_published_parameters():
    config = CLIPTextConfig.from_dict(read("configs", "sd15.text_encoder"))
    model = nnx.eval_shape(lambda: CLIPTextModel(config, rngs=nnx.Rngs(0)))
    published = {k.removeprefix("text_model."): tuple(v) for k, v in read("shapes", "sd15.text_encoder").items()}
    del published["embeddings.position_ids"]  # a constant that old versions saved
    assert torch_shapes(model) == published


def test_full_size_vocoder_has_the_published_parameters():
    config = VocoderConfig.from_dict(read("configs", "auffusion.vocoder"))
    model = nnx.eval_shape(lambda: Generator(config, rngs=nnx.Rngs(0)))
    # Weight norm: direction `weight_v` has the folded weight's shape, magnitude `weight_g` goes.
    shapes = read("shapes", "auffusion.vocoder").items()
    folded = {k.replace("weight_v", "weight"): tuple(v) for k, v in shapes if not k.endswith("weight_g")}
    assert torch_shapes(model) == folded


@pytest.mark.parametrize(
    "change, named",
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"model_type": "t5"}, "model_type"),
        ({"rope_theta": 1e4}, "rope_theta"),
    ],
)
def test_unknown_text_config_is_refused(change, named):
    with pytest.raises(UserError, match=named):
        CLIPTextConfig.from_dict({**read("configs", "sd15.text_encoder"), **change})


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
def test_unknown_vocoder_config_is_refused(change, named):
    with pytest.raises(UserError, match=named):
        VocoderConfig.from_dict({**read("configs", "auffusion.vocoder"), **change})
