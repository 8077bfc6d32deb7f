"""The mel front end against PyTorch and librosa, pictures and back, Griffin-Lim against librosa's."""

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
def sounds(seconds: float = 0.75) -> np.ndarray:
    """Two waveforms [2, samples] with chirps, onsets, faint noise and silence."""
    t = np.arange(int(16000 * seconds)) / 16000
    rng = np.random.default_rng(0)
    partials = [np.sin(2 * np.pi * f * t * (1 + 0.1 * t)) * np.exp(-5 * ((3 * t) % 1)) for f in (220, 660, 1870, 5200)]
    chirps = 0.1 * sum(partials) + 1e-3 * rng.normal(size=t.shape)
    noise = 0.2 * rng.normal(size=t.shape) * (t < seconds / 2)
    return np.stack([chirps, noise]).astype(np.float32)


def torch_log_mel(waveform: np.ndarray, c: MelConfig) -> np.ndarray:
    """The formulas of the paper's front end, written with torch.stft; [b, frames, n_mels]."""
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
def test_mel_basis_is_librosas(config):
    reference = librosa.filters.mel(
        sr=config.sampling_rate, n_fft=config.n_fft, n_mels=config.n_mels, fmin=config.fmin, fmax=config.fmax
    )
    np.testing.assert_allclose(mel_basis(config), reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("trim", [0, 77])
def test_log_mel_is_the_torch_formula(config, trim):
    waveform = sounds()[:, trim:]
    ours = log_mel(waveform, config)
    assert ours.shape == (2, waveform.shape[1] // config.hop_length, config.n_mels)
    np.testing.assert_allclose(ours, torch_log_mel(waveform, config), rtol=0, atol=1e-3)


def test_silence_is_at_the_floor_and_black():
    quiet = log_mel(jnp.zeros((1, 4800)), MelConfig())
    # sqrt(1e-9) through the narrow low filters lies below 1e-5: the floor of the logarithm.
    np.testing.assert_allclose(quiet, MelConfig().log_min, atol=0.7)
    assert mel_to_image(quiet).max() < 0.05


def test_picture_round_trip():
    picture = np.random.default_rng(0).uniform(size=(2, 256, 30)).astype(np.float32)
    np.testing.assert_allclose(mel_to_image(image_to_mel(picture)), picture, rtol=0, atol=1e-6)


def test_picture_orientation_range_and_clipping():
    logs = jnp.full((1, 3, 256), math.log(1e-5)).at[0, 1, 255].set(math.log(200.0)).at[0, 2, 0].set(50.0)
    picture = mel_to_image(logs)
    assert picture.shape == (1, 256, 3)
    assert picture[0, 0, 1] == pytest.approx(1) and picture[0, 255, 2] == 1
    assert float(picture.sum()) == pytest.approx(2)


@pytest.mark.parametrize("iterations", [8, 32, 64])
def test_griffin_lim_converges_as_librosas(iterations):
    """Both start from |stft| of the same sounds, librosa in its own framing; mean of three seeds."""
    config, waveform = MelConfig(), sounds()
    analyse = functools.partial(mel.stft, config=config)
    magnitude = np.abs(analyse(jnp.asarray(waveform)))
    reconstruct = jax.jit(griffin_lim.reconstruct_phase, static_argnums=(1, 2))
    ours = [
        spectral_convergence(analyse(reconstruct(magnitude, config, iterations, seed)), magnitude) for seed in range(3)
    ]
    sizes = dict(n_fft=2048, hop_length=160, win_length=1024, pad_mode="reflect")
    centred = np.abs(librosa.stft(waveform, **sizes))
    theirs = []
    for seed in range(3):
        heard = librosa.griffinlim(centred, n_iter=iterations, random_state=seed, length=waveform.shape[1], **sizes)
        theirs.append(spectral_convergence(librosa.stft(heard, **sizes), centred))
    assert np.mean(ours) <= np.mean(theirs), (ours, theirs)


@pytest.mark.parametrize("n_mels", [128, 256])
def test_mel_inversion_is_consistent(n_mels):
    """Magnitudes found from mels have those mels: within 1e-3 of the [0, 1] range on average."""
    config = MelConfig(n_mels=n_mels)
    logs = log_mel(sounds(), config)
    magnitude = griffin_lim._invert_mel(jnp.exp(logs), config)
    assert magnitude.min() >= 0
    again = jnp.log(jnp.maximum(magnitude @ mel_basis(config).T, 1e-5))
    assert jnp.abs(mel_to_image(again) - mel_to_image(logs)).mean() < 1e-3


def test_griffin_lim_sounds_like_its_spectrogram():
    config = MelConfig(n_mels=128)
    logs = log_mel(sounds(), config)
    invert = jax.jit(griffin_lim.griffin_lim, static_argnums=(1, 2))
    waveform = invert(logs, config, 32)
    assert waveform.shape == (2, logs.shape[1] * 160) and waveform.dtype == jnp.float32
    assert jnp.abs(mel_to_image(log_mel(waveform, config)) - mel_to_image(logs)).mean() < 0.025
    np.testing.assert_array_equal(waveform, invert(logs, config, 32))
    np.testing.assert_allclose(invert(logs[1:], config, 32), waveform[1:], atol=1e-4)


@pytest.mark.parametrize("wrong", [{"hop_length": 0}, {"win_length": 4096}, {"hop_length": 161}, {"fmax": 9000.0}])
def test_impossible_front_end_is_refused(wrong):
    with pytest.raises(UserError, match="mel front end"):
        MelConfig(**wrong)
