"""Initializes the vocoder as a bank of oscillators, one for each harmonic of the frame rate.

HiFi-GAN draws no noise and treats all frames alike. For a steady spectrogram it can only generate a waveform that
repeats with every frame, which is a sum of such harmonics. From random weights this takes many thousand steps to learn.
From these weights, the training only has to learn the loudness of each harmonic, and everything beside harmonics.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from its_jax.audio.mel import MelConfig, log_mel, mel_basis

_FIT_ITERS = 100
_LAST_SLOPE = 0.01  # slope of the leaky ReLU before the sum
_LOUDNESS = 0.05  # loudness of an oscillator whose feature is 1
# An approximation of exp(x) for -9.2 < x < 0 by leaky ReLUs, y = lrelu(sum of v lrelu(u x + b) + d). Gradient descent
# fitted it to a mean error of 0.26 nats.
_U, _B = (0.662, 0.617, 0.505), (3.801, 1.860, 0.0952)
_V, _D = (0.01574, 0.20365, -0.26162), -0.03778


def initialize(generator: Any, config: MelConfig) -> None:
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


def _fill(layer: Any, change: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Sets the weights of a layer by `change`, which modifies kernel and bias in place.

    Kernels are `[taps, in, out]`, and those of upsampling layers `[taps, out, in]`.
    """
    kernel, bias = (np.array(variable[...]) for variable in (layer.kernel, layer.bias))
    change(kernel, bias)
    layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)


def _bend(kernel: np.ndarray, bias: np.ndarray, knots: np.ndarray, config: MelConfig) -> None:
    """Maps log-mels to u x + b for each band, with x = 0 for white."""
    kernel[:] = 0
    kernel[3, np.arange(len(knots))[:, None], knots] = _U
    bias[knots] = np.array(_B) - np.array(_U) * config.log_max


def _exponentiate(kernel: np.ndarray, bias: np.ndarray, knots: np.ndarray) -> None:
    """Maps the features of each band to its magnitude, 1 for white."""
    bands = len(knots)
    kernel[:, :bands] = 0
    kernel[1, np.arange(bands)[:, None], knots] = _V
    bias[:bands] = _D


def _mix(kernel: np.ndarray, config: MelConfig) -> None:
    """Maps magnitudes to the loudness of each oscillator."""
    n = len(_oscillators(config))
    kernel[:, :n] = 0
    kernel[1, :n, : config.n_mels] = _amplitudes(config) * np.exp(config.log_max) / _LOUDNESS


def _oscillate(kernel: np.ndarray, bias: np.ndarray, config: MelConfig) -> None:
    """Maps loudness to the waveform and its negative, minus each threshold."""
    waveform = _LOUDNESS * _oscillators(config).T
    thresholds, _ = _undo_tanh()
    pairs, n = len(thresholds), waveform.shape[1]
    kernel[:, : 2 * pairs] = 0
    kernel[:, :pairs, :n], kernel[:, pairs : 2 * pairs, :n] = waveform[:, None], -waveform[:, None]
    bias[: 2 * pairs] = np.tile(-thresholds, 2)


def _sum(kernel: np.ndarray) -> None:
    """Maps these to the artanh of the waveform, which the generator's last tanh undoes."""
    _, slopes = _undo_tanh()
    kernel[:] = 0
    kernel[3, : 2 * len(slopes), 0] = np.concatenate([slopes, -slopes])


def _undo_tanh() -> tuple[np.ndarray, np.ndarray]:
    """Returns thresholds and slopes of pairs of leaky ReLUs, of x and of -x, whose sum is artanh(x).

    It is linear above 0.9. The generator's last tanh would otherwise distort loud spectra, and their intermodulation
    would fill places that should be black.
    """
    thresholds = np.linspace(0, 0.9, 21)[:-1]
    rises = np.diff(np.diff(np.arctanh(np.linspace(0, 0.9, 21))) / thresholds[1], prepend=0)
    slopes = rises / (1 - _LAST_SLOPE)
    # Below their thresholds the other ReLUs leak.
    slopes[0] = (rises[0] - 2 * _LAST_SLOPE * slopes[1:].sum()) / (1 + _LAST_SLOPE)
    return thresholds, slopes


@functools.lru_cache
def _oscillators(config: MelConfig) -> np.ndarray:
    """Returns harmonics of the frame rate that fade in and out within a frame, float32 `[harmonics, 2 hop_length]`."""
    hop = config.hop_length
    time = np.arange(2 * hop)
    fade = 1 - np.abs(time + 0.5 - hop) / hop
    k = np.arange(1, int(config.fmax * hop / config.sampling_rate))[:, None]
    phases = np.pi * k**2 / len(k)  # Schroeder 1970: low peaks, so that loud spectra are not distorted
    return (fade * np.cos(2 * np.pi * k * time / hop + phases)).astype(np.float32)


def _amplitudes(config: MelConfig) -> np.ndarray:
    """Returns a matrix that averages the mel magnitudes near each harmonic, float32 `[harmonics, n_mels]`."""
    basis = mel_basis(config)
    hz = np.arange(basis.shape[1]) * config.sampling_rate / config.n_fft
    centers = (basis @ hz) / basis.sum(axis=1)
    spacing = config.sampling_rate / config.hop_length
    harmonics = spacing * np.arange(1, len(_oscillators(config)) + 1)
    # A harmonic reaches the bands up to the next harmonic, or at least the two bands between which it lies.
    reach = np.maximum(0.7 * spacing, np.interp(harmonics, centers, np.gradient(centers)))
    nearness = np.maximum(0, 1 - np.abs(harmonics[:, None] - centers) / reach[:, None])
    return (nearness / nearness.sum(axis=1, keepdims=True) * _flat(config)[:, None]).astype(np.float32)


def _flat(config: MelConfig) -> np.ndarray:
    """Fits amplitudes `[harmonics]` at which all mel magnitudes are about 1, by multiplicative updates (Lee and Seung
    2001)."""
    waveforms = np.tile(_oscillators(config)[:, : config.hop_length] + _oscillators(config)[:, config.hop_length :], 16)
    quiet = dataclasses.replace(config, log_min=-12.0)
    response = np.exp(np.asarray(log_mel(jnp.asarray(waveforms), quiet)))[:, 8].T
    a = np.ones(response.shape[1])
    for _ in range(_FIT_ITERS):
        a *= ((1 / (response @ a)) @ response) / response.sum(axis=0)
    return a
