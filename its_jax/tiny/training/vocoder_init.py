"""A start for the vocoder: a bank of oscillators, one for each harmonic of the frame rate.

HiFi-GAN draws no noise and treats all frames alike: to a steady spectrogram it can answer with a waveform only that
repeats with every frame, a sum of such harmonics. From random weights this takes many thousand steps to learn. Begun
with it, what remains to be learned is how loud each is, and what there is beside harmonics.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from its_jax.audio.mel import MelConfig, log_mel, mel_basis

_FIT_ITERS = 100
_LAST_SLOPE = 0.01  # of the leaky ReLU before the sum
_LOUDNESS = 0.05  # of an oscillator whose feature is 1
# exp(x) for -9.2 < x < 0 to 0.26 nats in the mean, as leaky ReLUs can have it; fitted by gradient descent:
# y = lrelu(sum of v lrelu(u x + b) + d).
_U, _B = (0.662, 0.617, 0.505), (3.801, 1.860, 0.0952)
_V, _D = (0.01574, 0.20365, -0.26162), -0.03778


def begin(generator, config: MelConfig) -> None:
    """Sets the weights of a vocoder whose upsampling rates are 1, 1 and the hop. Spare features stay random."""
    to_magnitudes, to_loudness, to_samples = generator.ups
    knots = np.arange(config.n_mels * len(_U)).reshape(config.n_mels, -1)  # the features of each band
    _fill(generator.conv_pre, lambda kernel, bias: _bend(kernel, bias, knots, config))
    _fill(to_magnitudes, lambda kernel, bias: _exponentiate(kernel, bias, knots))
    _fill(to_loudness, lambda kernel, bias: _mix(kernel, config))
    _fill(to_samples, lambda kernel, bias: _oscillate(kernel, bias, config))
    _fill(generator.conv_post, lambda kernel, bias: _sum(kernel))
    for block in generator.resblocks:
        for conv in block.convs:
            _fill(conv, lambda kernel, bias: kernel.fill(0))


def _fill(layer, change):
    """Lets `change` set weights of a layer in place; kernels are `[taps, in, out]`, those of ups `[taps, out, in]`."""
    kernel, bias = (np.array(variable[...]) for variable in (layer.kernel, layer.bias))
    change(kernel, bias)
    layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)


def _bend(kernel, bias, knots, config: MelConfig):
    """Log-mels -> u x + b for each band, with x = 0 for white."""
    kernel[:] = 0
    kernel[3, np.arange(len(knots))[:, None], knots] = _U
    bias[knots] = np.array(_B) - np.array(_U) * config.log_max


def _exponentiate(kernel, bias, knots):
    """-> the magnitude of each band, 1 for white."""
    bands = len(knots)
    kernel[:, :bands] = 0
    kernel[1, np.arange(bands)[:, None], knots] = _V
    bias[:bands] = _D


def _mix(kernel, config: MelConfig):
    """-> how loud each oscillator is."""
    n = len(_oscillators(config))
    kernel[:, :n] = 0
    kernel[1, :n, : config.n_mels] = _amplitudes(config) * np.exp(config.log_max) / _LOUDNESS


def _oscillate(kernel, bias, config: MelConfig):
    """-> the waveform and its negative, less each threshold."""
    waveform = _LOUDNESS * _oscillators(config).T
    thresholds, _ = _undo_tanh()
    pairs, n = len(thresholds), waveform.shape[1]
    kernel[:, : 2 * pairs] = 0
    kernel[:, :pairs, :n], kernel[:, pairs : 2 * pairs, :n] = waveform[:, None], -waveform[:, None]
    bias[: 2 * pairs] = np.tile(-thresholds, 2)


def _sum(kernel):
    """-> artanh of the waveform, before the generator's own tanh."""
    _, slopes = _undo_tanh()
    kernel[:] = 0
    kernel[3, : 2 * len(slopes), 0] = np.concatenate([slopes, -slopes])


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
