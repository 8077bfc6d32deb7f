"""The mel front end against PyTorch and librosa, its images, and Griffin-Lim against librosa's."""

import functools
import math

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import torch

from its_jax.audio import griffin_lim, mel
from its_jax.audio.mel import MelConfig, image_to_mel, mel_basis, mel_to_image
from its_jax.errors import UserError

CONFIGS = {
    "auffusion": MelConfig(),
    "128 mels": MelConfig(n_mels=128),
    "odd": MelConfig(sampling_rate=22050, n_fft=600, win_length=500, hop_length=150, n_mels=40, fmin=50, fmax=7000),
}
log_mel = jax.jit(mel.log_mel, static_argnums=1)


@functools.cache
def make_waveforms(seconds: float = 0.75) -> np.ndarray:
    """Returns two waveforms `[2, samples]` with chirps, onsets, faint noise and silence."""
    t = np.arange(int(16000 * seconds)) / 16000
    rng = np.random.default_rng(0)
    partials = [np.sin(2 * np.pi * f * t * (1 + 0.1 * t)) * np.exp(-5 * ((3 * t) % 1)) for f in (220, 660, 1870, 5200)]
    chirps = 0.1 * sum(partials) + 1e-3 * rng.normal(size=t.shape)
    noise = 0.2 * rng.normal(size=t.shape) * (t < seconds / 2)
    return np.stack([chirps, noise]).astype(np.float32)


def torch_log_mel(waveform: np.ndarray, c: MelConfig) -> np.ndarray:
    """Computes the paper's front end with `torch.stft`: `[b, frames, n_mels]`."""
    pad = (c.n_fft - c.hop_length) // 2
    padded = torch.nn.functional.pad(torch.from_numpy(waveform)[:, None], (pad, pad), mode="reflect")[:, 0]
    spectrum = torch.stft(
        padded,
        c.n_fft,
        c.hop_length,
        c.win_length,
        torch.hann_window(c.win_length),
        center=False,
        return_complex=True,
    )
    magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    basis = librosa.filters.mel(sr=c.sampling_rate, n_fft=c.n_fft, n_mels=c.n_mels, fmin=c.fmin, fmax=c.fmax)
    return torch.log(torch.clamp(torch.from_numpy(basis) @ magnitude, min=1e-5)).mT.numpy()


def spectral_convergence(measured, magnitude) -> float:
    return float(np.linalg.norm(np.abs(measured) - magnitude) / np.linalg.norm(magnitude))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_mel_basis_equals_librosa(config):
    reference = librosa.filters.mel(
        sr=config.sampling_rate, n_fft=config.n_fft, n_mels=config.n_mels, fmin=config.fmin, fmax=config.fmax
    )
    np.testing.assert_allclose(mel_basis(config), reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("trim", [0, 77])
def test_log_mel_equals_pytorch(config, trim):
    waveform = make_waveforms()[:, trim:]
    ours = log_mel(waveform, config)
    assert ours.shape == (2, waveform.shape[1] // config.hop_length, config.n_mels)
    np.testing.assert_allclose(ours, torch_log_mel(waveform, config), rtol=0, atol=1e-3)


def test_silence_is_black():
    quiet = log_mel(jnp.zeros((1, 4800)), MelConfig())
    # sqrt(1e-9) through the narrow low filters lies below 1e-5, the floor of the logarithm.
    np.testing.assert_allclose(quiet, MelConfig().log_min, atol=0.7)
    assert mel_to_image(quiet).max() < 0.05


def test_an_image_survives_the_round_trip():
    image = np.random.default_rng(0).uniform(size=(2, 256, 30)).astype(np.float32)
    np.testing.assert_allclose(mel_to_image(image_to_mel(image)), image, rtol=0, atol=1e-6)


def test_an_image_has_the_highest_mel_on_top_and_is_clipped():
    logs = jnp.full((1, 3, 256), math.log(1e-5)).at[0, 1, 255].set(math.log(200.0)).at[0, 2, 0].set(50.0)
    image = mel_to_image(logs)
    assert image.shape == (1, 256, 3)
    assert image[0, 0, 1] == pytest.approx(1) and image[0, 255, 2] == 1
    assert float(image.sum()) == pytest.approx(2)


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [8, 32, 64])
def test_griffin_lim_converges_as_fast_as_librosa(iterations):
    """Both start from |stft| of the same waveforms, librosa in its own framing; mean of three seeds."""
    config, waveform = MelConfig(), make_waveforms()
    analyze = functools.partial(mel.stft, config=config)
    magnitude = np.abs(analyze(jnp.asarray(waveform)))
    reconstruct = jax.jit(griffin_lim.reconstruct_phase, static_argnums=(1, 2))
    ours = [
        spectral_convergence(analyze(reconstruct(magnitude, config, iterations, seed)), magnitude) for seed in range(3)
    ]
    sizes = dict(n_fft=2048, hop_length=160, win_length=1024, pad_mode="reflect")
    centered = np.abs(librosa.stft(waveform, **sizes))
    theirs = []
    for seed in range(3):
        found = librosa.griffinlim(centered, n_iter=iterations, random_state=seed, length=waveform.shape[1], **sizes)
        theirs.append(spectral_convergence(librosa.stft(found, **sizes), centered))
    assert np.mean(ours) <= np.mean(theirs), (ours, theirs)


@pytest.mark.parametrize("n_mels", [128, 256])
def test_mel_inversion_is_consistent(n_mels):
    """The mels of the inverted mels differ by less than 1e-3 of the [0, 1] range on average."""
    config = MelConfig(n_mels=n_mels)
    logs = log_mel(make_waveforms(), config)
    magnitude = griffin_lim.invert_mel(jnp.exp(logs), config)
    assert magnitude.min() >= 0
    again = jnp.log(jnp.maximum(magnitude @ mel_basis(config).T, 1e-5))
    assert jnp.abs(mel_to_image(again) - mel_to_image(logs)).mean() < 1e-3


def test_griffin_lim_reproduces_the_spectrogram():
    config = MelConfig(n_mels=128)
    logs = log_mel(make_waveforms(), config)
    invert = jax.jit(griffin_lim.griffin_lim, static_argnums=(1, 2))
    waveform = invert(logs, config, 32)
    assert waveform.shape == (2, logs.shape[1] * 160) and waveform.dtype == jnp.float32
    assert jnp.abs(mel_to_image(log_mel(waveform, config)) - mel_to_image(logs)).mean() < 0.025
    np.testing.assert_array_equal(waveform, invert(logs, config, 32))
    np.testing.assert_allclose(invert(logs[1:], config, 32), waveform[1:], atol=1e-4)


@pytest.mark.parametrize("wrong", [{"hop_length": 0}, {"win_length": 4096}, {"hop_length": 161}, {"fmax": 9000.0}])
def test_an_impossible_front_end_is_refused(wrong):
    with pytest.raises(UserError, match="mel front end"):
        MelConfig(**wrong)
