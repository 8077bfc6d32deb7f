"""Griffin-Lim: a waveform from a log-mel spectrogram without a vocoder."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.audio.mel import MelConfig, hann, matmul, mel_basis, stft

_MOMENTUM = 0.99  # fast Griffin-Lim: Perraudin, Balazs, Sondergaard 2013
_MEL_INVERSION_ITERS = 16


def griffin_lim(log_mel: jax.Array, config: MelConfig, num_iters: int = 32, seed: int | jax.Array = 0) -> jax.Array:
    """Finds waveforms whose log-mel spectrograms are close to the given ones, by fast Griffin-Lim from random phases.

    All samples of a batch start from the same phases, drawn from `seed`, so a sample does not depend on its batch. The
    result is not clipped to [-1, 1].

    `[b, frames, n_mels]` natural log -> `[b, frames * hop_length]`.
    """
    return reconstruct_phase(invert_mel(jnp.exp(log_mel), config), config, num_iters, seed)


def reconstruct_phase(magnitude: jax.Array, config: MelConfig, num_iters: int, seed: int | jax.Array) -> jax.Array:
    """Finds waveforms whose STFT magnitudes are close to the given ones.

    `[b, frames, n_fft // 2 + 1]` -> `[b, frames * hop_length]`.
    """
    angle = jax.random.uniform(jax.random.key(seed), magnitude.shape[1:], maxval=2 * math.pi)
    phase = jnp.broadcast_to(jax.lax.complex(jnp.cos(angle), jnp.sin(angle)), magnitude.shape)

    def step(_, state):
        phase, previous = state
        rebuilt = stft(_istft(magnitude * phase, config), config)
        extrapolated = rebuilt - _MOMENTUM / (1 + _MOMENTUM) * previous
        return extrapolated / jnp.maximum(jnp.abs(extrapolated), 1e-12), rebuilt

    phase, _ = jax.lax.fori_loop(0, num_iters, step, (phase, jnp.zeros_like(phase)))
    return _istft(magnitude * phase, config)


@functools.lru_cache
def _mel_pseudo_inverse(config: MelConfig) -> np.ndarray:
    """Returns the least-squares map from mel to linear frequency, not clipped: `[n_fft // 2 + 1, n_mels]`."""
    return np.linalg.pinv(mel_basis(config).astype(np.float64)).astype(np.float32)


def invert_mel(mel: jax.Array, config: MelConfig) -> jax.Array:
    """Finds non-negative STFT magnitudes whose mel magnitudes are close to the given ones.

    The clipped pseudo-inverse is inaccurate where it clips. Multiplicative updates for the Kullback-Leibler divergence
    (Lee and Seung 2001) correct that; they weigh errors much as the logarithm does.

    `[..., n_mels]` -> `[..., n_fft // 2 + 1]`.
    """
    basis = mel_basis(config)
    weight = np.maximum(basis.sum(axis=0), np.float32(1e-12))
    start = jnp.maximum(matmul(mel, _mel_pseudo_inverse(config).T), 1e-2 * matmul(mel, basis / weight))

    def step(_, magnitude):
        ratio = mel / jnp.maximum(matmul(magnitude, basis.T), 1e-12)
        return magnitude * matmul(ratio, basis) / weight

    return jax.lax.fori_loop(0, _MEL_INVERSION_ITERS, step, start)


def _istft(spectrum: jax.Array, config: MelConfig) -> jax.Array:
    """Computes the least-squares inverse of `stft`: `[b, frames, bins]` -> `[b, frames * hop_length]`."""
    window = hann(config)
    frames = jnp.fft.irfft(spectrum, n=config.n_fft)[..., : config.win_length] * window
    energy = _overlap_add(np.broadcast_to(window**2, (1, *frames.shape[1:])), config)
    return _overlap_add(frames, config) / energy


def _overlap_add(frames: jax.Array | np.ndarray, config: MelConfig) -> jax.Array:
    """Adds overlapping frames and removes the padding: `[b, frames, win_length]` -> `[b, frames * hop_length]`."""
    b, num_frames, win = frames.shape
    hop = config.hop_length
    blocks_per_frame = -(-win // hop)
    blocks = jnp.pad(frames, ((0, 0), (0, 0), (0, blocks_per_frame * hop - win)))
    blocks = blocks.reshape(b, num_frames, blocks_per_frame, hop)
    total: Any = sum(
        jnp.pad(blocks[:, :, i], ((0, 0), (i, blocks_per_frame - 1 - i), (0, 0))) for i in range(blocks_per_frame)
    )
    return total.reshape(b, -1)[:, config.padding : config.padding + num_frames * hop]
