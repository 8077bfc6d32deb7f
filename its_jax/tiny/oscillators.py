"""A start for the vocoder: a bank of oscillators, one for each harmonic of the frame rate.

HiFi-GAN draws no noise and treats all frames alike: to a steady spectrogram it can answer with a waveform only that
repeats with every frame, a sum of such harmonics. From random weights this takes many thousand steps to learn. Begun
with it, what remains to be learned is how loud each is, and what there is beside harmonics.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from its_jax.spectrogram import MelConfig, log_mel, mel_basis

_FIT_ITERS = 100
_LAST_SLOPE = 0.01  # of the leaky ReLU before the sum
_LOUDNESS = 0.05  # of an oscillator whose feature is 1
# exp(x) for -9.2 < x < 0 to 0.26 nats in the mean, as leaky ReLUs can have it; fitted by gradient descent:
# y = lrelu(sum of v lrelu(u x + b) + d).
_U, _B = (0.662, 0.617, 0.505), (3.801, 1.860, 0.0952)
_V, _D = (0.01574, 0.20365, -0.26162), -0.03778


def begin(generator, config: MelConfig) -> None:
    """Sets the weights of a vocoder whose upsampling rates are 1, 1 and the hop. Spare features stay random.

    Layer by layer: the knots of `exp` for each band, the magnitude of each band, the feature of each harmonic, its
    oscillation; then the sum.
    """
    knots, bands, n = len(_U), config.n_mels, len(_oscillators(config))
    channels = np.arange(bands * knots).reshape(bands, knots)
    first = np.zeros(generator.conv_pre.kernel.shape, np.float32)
    first[3, np.arange(bands)[:, None], channels] = _U
    bias = np.asarray(generator.conv_pre.bias[...]).copy()
    bias[channels] = np.array(_B) - np.array(_U) * config.log_max
    _set(generator.conv_pre, first, bias)

    magnitude, loudness, bank = (np.asarray(up.kernel[...]).copy() for up in generator.ups)
    magnitude[:, :bands] = 0
    magnitude[1, np.arange(bands)[:, None], channels] = _V
    bias = np.asarray(generator.ups[0].bias[...]).copy()
    bias[:bands] = _D
    _set(generator.ups[0], magnitude, bias)
    loudness[:, :n] = 0
    loudness[1, :n, :bands] = _amplitudes(config) * np.exp(config.log_max) / _LOUDNESS
    _set(generator.ups[1], loudness)
    thresholds, slopes = _undo_tanh()
    pairs = len(thresholds)
    waveform = _LOUDNESS * _oscillators(config).T
    bank[:, : 2 * pairs] = 0
    bank[:, :pairs, :n], bank[:, pairs : 2 * pairs, :n] = waveform[:, None], -waveform[:, None]
    bias = np.asarray(generator.ups[2].bias[...]).copy()
    bias[: 2 * pairs] = np.tile(-thresholds, 2)
    _set(generator.ups[2], bank, bias)
    last = np.zeros(generator.conv_post.kernel.shape, np.float32)
    last[3, : 2 * pairs, 0] = np.concatenate([slopes, -slopes])
    _set(generator.conv_post, last)
    for conv in (conv for block in generator.resblocks for conv in block.convs):
        _set(conv, np.zeros(conv.kernel.shape, np.float32))


def _undo_tanh():
    """Thresholds and slopes of pairs of leaky ReLUs, of x and of -x, whose sum is artanh(x) up to 0.9 and linear on.

    The tanh at the end would distort loud spectra: that fills what is black with their intermodulation.
    """
    thresholds = np.linspace(0, 0.9, 21)[:-1]
    rises = np.diff(np.diff(np.arctanh(np.linspace(0, 0.9, 21))) / thresholds[1], prepend=0)
    slopes = rises / (1 - _LAST_SLOPE)
    # Where they are below their thresholds, the others leak.
    slopes[0] = (rises[0] - 2 * _LAST_SLOPE * slopes[1:].sum()) / (1 + _LAST_SLOPE)
    return thresholds, slopes


def _set(layer, kernel, bias=None):
    layer.kernel[...] = jnp.asarray(kernel)
    if bias is not None:
        layer.bias[...] = jnp.asarray(bias)


@functools.lru_cache
def _oscillators(config: MelConfig):
    """Harmonics of the frame rate, fading in and out from frame to frame: float32 `[harmonics, 2 hop_length]`."""
    hop = config.hop_length
    time = np.arange(2 * hop)
    fade = 1 - np.abs(time + 0.5 - hop) / hop
    k = np.arange(1, int(config.fmax * hop / config.sampling_rate))[:, None]
    phases = np.pi * k**2 / len(k)  # Schroeder 1970: those of low peaks, so that loud spectra are not distorted
    return (fade * np.cos(2 * np.pi * k * time / hop + phases)).astype(np.float32)


def _amplitudes(config: MelConfig):
    """Mel magnitudes -> amplitudes, float32 `[harmonics, n_mels]`: means over the bands that lie nearest."""
    basis = mel_basis(config)
    hz = np.arange(basis.shape[1]) * config.sampling_rate / config.n_fft
    centres = (basis @ hz) / basis.sum(axis=1)
    spacing = config.sampling_rate / config.hop_length
    harmonics = spacing * np.arange(1, len(_oscillators(config)) + 1)
    # Of the bands between two harmonics, or of the two between which a harmonic lies.
    reach = np.maximum(0.7 * spacing, np.interp(harmonics, centres, np.gradient(centres)))
    nearness = np.maximum(0, 1 - np.abs(harmonics[:, None] - centres) / reach[:, None])
    return (nearness / nearness.sum(axis=1, keepdims=True) * _flat(config)[:, None]).astype(np.float32)


def _flat(config: MelConfig):
    """Amplitudes `[harmonics]` at which all mel magnitudes are about 1: multiplicative updates (Lee and Seung 2001)."""
    waveforms = np.tile(_oscillators(config)[:, : config.hop_length] + _oscillators(config)[:, config.hop_length :], 16)
    quiet = dataclasses.replace(config, log_min=-12.0)
    response = np.exp(np.asarray(log_mel(jnp.asarray(waveforms), quiet)))[:, 8].T
    a = np.ones(response.shape[1])
    for _ in range(_FIT_ITERS):
        a *= ((1 / (response @ a)) @ response) / response.sum(axis=0)
    return a
