"""Waveforms of given phases for any log-mel spectrogram, as a first aim for the vocoder.

HiFi-GAN draws no noise and treats all frames alike: to a steady spectrogram it can answer with a waveform only that
repeats with every frame, a comb of harmonics of the frame rate. So for each spectrogram we take such a comb with
amplitudes that fit and phases that are the same for all.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.spectrogram import MelConfig, log_mel, stft

FIT_ITERS = 30
_QUIET = 2.0  # sum of STFT magnitudes of a frame beside which errors are measured; that of nearly black ones


def error(waveform: jax.Array, target: jax.Array, config: MelConfig) -> jax.Array:
    """Mean over frames of the complex difference from the comb, relative to its size in that frame: 1 for silence.

    Args:
      waveform: `[b, frames * hop_length]`. target: log-mel `[b, frames, n_mels]`, natural log.
    """
    theirs = stft(jnp.tanh(comb(target, config)), config)  # the generator's own limit
    ours = stft(waveform, config)
    difference = jnp.sqrt((ours.real - theirs.real) ** 2 + (ours.imag - theirs.imag) ** 2 + 1e-9)
    return jnp.mean(difference.sum(-1) / (jnp.abs(theirs).sum(-1) + _QUIET))


def comb(target: jax.Array, config: MelConfig) -> jax.Array:
    """Log-mel `[b, frames, n_mels]` -> waveform `[b, frames * hop_length]`."""
    hop = config.hop_length
    amplitudes = _amplitudes(jnp.exp(target), config)
    # A frame's amplitudes hold in its middle and fade linearly towards those of the next, so each half of a hop is a
    # mixture of two frames.
    after = jnp.concatenate([amplitudes[:, 1:], amplitudes[:, -1:]], axis=1)
    fade = (np.arange(hop) + 0.5) / hop
    middle_on = amplitudes @ ((1 - fade) * _carriers(config)) + after @ (fade * _carriers(config))
    whole = middle_on.reshape(len(target), -1)
    start = amplitudes[:, 0] @ _carriers(config)
    return jnp.concatenate([start[:, hop // 2 :], whole[:, : -(hop // 2)]], axis=1)


def _amplitudes(mel, config):
    """Harmonics whose mels are close to `mel`: multiplicative updates as in `spectrogram`, `[b, frames, harmonics]`."""
    response = _response(config)
    weight = response.sum(axis=0)

    def step(_, a):
        return a * ((mel / jnp.maximum(a @ response.T, 1e-9)) @ response) / weight

    return jax.lax.fori_loop(0, FIT_ITERS, step, mel @ (response / weight))


@functools.lru_cache
def _carriers(config):
    """One frame of each harmonic of the frame rate below the highest mel band, from the frame's middle on.

    Their phases are random, so that no pulses stand out: float32 `[harmonics, hop_length]`.
    """
    hop = config.hop_length
    k = np.arange(1, int(config.fmax * hop / config.sampling_rate))[:, None]
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, k.shape)
    return np.cos(2 * np.pi * k * np.arange(hop) / hop + phases).astype(np.float32)


@functools.lru_cache
def _response(config):
    """Mel magnitudes of each harmonic at amplitude 1: float32 `[n_mels, harmonics]`. They add up, nearly."""
    with jax.ensure_compile_time_eval():
        waveforms = jnp.tile(jnp.asarray(_carriers(config)), (1, 16))
        return np.exp(log_mel(waveforms, dataclasses.replace(config, log_min=-12.0)))[:, 8].T
