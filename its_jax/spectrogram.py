"""Waveform <-> log-mel spectrogram <-> [0, 1] picture, and Griffin-Lim.

The front end is that of Auffusion's HiFi-GAN vocoder. Frames are cut without centring from a
reflect-padded waveform, so that `samples` make exactly `samples // hop_length` frames.

Shapes: b batch, waveform [b, samples] in [-1, 1], log-mel [b, frames, n_mels] in natural log of magnitude,
picture [b, n_mels, frames] in [0, 1] with the highest mel in row 0. Every function is pure and jits with
`config` as a static argument.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.errors import UserError

_MOMENTUM = 0.99  # fast Griffin-Lim: Perraudin, Balazs, Sondergaard 2013
_MEL_INVERSION_ITERS = 16


@dataclasses.dataclass(frozen=True)
class MelConfig:
    """Sizes of the mel front end (Auffusion's defaults); Hz, samples, and natural logs of mel magnitude.

    `log_min` is the floor of the logarithm and black in the picture, `log_max` is white.
    """

    sampling_rate: int = 16000
    n_fft: int = 2048
    win_length: int = 1024
    hop_length: int = 160
    n_mels: int = 256
    fmin: float = 0.0
    fmax: float = 8000.0
    log_min: float = math.log(1e-5)
    log_max: float = math.log(200.0)

    def __post_init__(self):
        hop, win, n_fft, nyquist = self.hop_length, self.win_length, self.n_fft, self.sampling_rate / 2
        if not 0 < hop < win <= n_fft:
            raise UserError(f"mel front end: need 0 < hop_length {hop} < win_length {win} <= n_fft {n_fft}")
        if not hop % 2 == win % 2 == n_fft % 2:
            raise UserError(
                f"mel front end: hop_length {hop}, win_length {win} and n_fft {n_fft} must be all even or "
                "all odd, for the padding to be symmetric"
            )
        if not 0 <= self.fmin < self.fmax <= nyquist:
            raise UserError(
                f"mel front end: need 0 <= fmin {self.fmin} < fmax {self.fmax} <= sampling_rate / 2 = {nyquist}"
            )

    @property
    def padding(self) -> int:
        """Reflected samples on either side.

        The window is zero outside its centre, so of the (n_fft - hop_length) / 2 samples of the definition
        only those within its reach are kept, and a frame holds `win_length` samples.
        """
        return (self.win_length - self.hop_length) // 2


def log_mel(waveform: jax.Array, config: MelConfig) -> jax.Array:
    """[b, samples] -> [b, samples // hop_length, n_mels] natural-log mel magnitudes, floored at `log_min`."""
    spectrum = _stft(waveform, config)
    magnitude = jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    mel = _matmul(magnitude, mel_basis(config).T)
    return jnp.log(jnp.maximum(mel, math.exp(config.log_min)))


def to_picture(log_mel: jax.Array, config: MelConfig = MelConfig()) -> jax.Array:
    """[b, frames, n_mels] natural log -> [b, n_mels, frames] in [0, 1], clipped, row 0 the highest mel."""
    unit = (log_mel - config.log_min) / (config.log_max - config.log_min)
    return jnp.clip(unit, 0.0, 1.0).swapaxes(-1, -2)[..., ::-1, :]


def from_picture(picture: jax.Array, config: MelConfig = MelConfig()) -> jax.Array:
    """[b, n_mels, frames] in [0, 1] -> [b, frames, n_mels] natural log: the inverse of `to_picture`."""
    unit = picture[..., ::-1, :].swapaxes(-1, -2)
    return unit * (config.log_max - config.log_min) + config.log_min


def griffin_lim(log_mel: jax.Array, config: MelConfig, num_iters: int = 32, seed: int | jax.Array = 0) -> jax.Array:
    """[b, frames, n_mels] natural log -> waveform [b, frames * hop_length] whose `log_mel` is close to it.

    Fast Griffin-Lim from random phases. All samples of a batch start from the same phases, drawn from
    `seed`, so a sample does not depend on its batch. The result is not clipped to [-1, 1].
    """
    return reconstruct_phase(_invert_mel(jnp.exp(log_mel), config), config, num_iters, seed)


def reconstruct_phase(magnitude: jax.Array, config: MelConfig, num_iters: int, seed: int | jax.Array) -> jax.Array:
    """Griffin-Lim proper: STFT magnitude [b, frames, n_fft // 2 + 1] -> waveform [b, frames * hop_length]."""
    angle = jax.random.uniform(jax.random.key(seed), magnitude.shape[1:], maxval=2 * math.pi)
    phase = jnp.broadcast_to(jax.lax.complex(jnp.cos(angle), jnp.sin(angle)), magnitude.shape)

    def step(_, state):
        phase, previous = state
        rebuilt = _stft(_istft(magnitude * phase, config), config)
        ahead = rebuilt - _MOMENTUM / (1 + _MOMENTUM) * previous
        return ahead / jnp.maximum(jnp.abs(ahead), 1e-12), rebuilt

    phase, _ = jax.lax.fori_loop(0, num_iters, step, (phase, jnp.zeros_like(phase)))
    return _istft(magnitude * phase, config)


@functools.lru_cache
def mel_edges(config: MelConfig) -> np.ndarray:
    """Hz `[n_mels + 2]`: band i is a triangle from edge i to edge i + 2 with its top at edge i + 1.

    The scale (Slaney, Auditory Toolbox, 1998) is linear up to 1000 Hz = 15 mel and logarithmic above, where
    27 mels span a factor of 6.4.
    """
    log_step = math.log(6.4) / 27

    def to_mel(hz):
        return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) / log_step

    mels = np.linspace(to_mel(config.fmin), to_mel(config.fmax), config.n_mels + 2)
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(log_step * (mels - 15)))


@functools.lru_cache
def mel_basis(config: MelConfig) -> np.ndarray:
    """Slaney's mel filter bank, triangles of unit area in Hz: float32 [n_mels, n_fft // 2 + 1]."""
    edges = mel_edges(config)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.arange(config.n_fft // 2 + 1) * config.sampling_rate / config.n_fft
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return (np.maximum(triangles, 0) * 2 / (high - low)).astype(np.float32)


@functools.lru_cache
def _mel_pseudo_inverse(config: MelConfig) -> np.ndarray:
    """[n_fft // 2 + 1, n_mels]: least squares from mel back to linear frequency, before clipping."""
    return np.linalg.pinv(mel_basis(config).astype(np.float64)).astype(np.float32)


def _invert_mel(mel: jax.Array, config: MelConfig) -> jax.Array:
    """Mel magnitudes [..., n_mels] -> non-negative STFT magnitudes [..., bins] whose mels are close to them.

    The clipped pseudo-inverse is off where it clips. Multiplicative updates for the Kullback-Leibler
    divergence (Lee and Seung 2001) mend that; they weigh errors much as the logarithm does.
    """
    basis = mel_basis(config)
    weight = np.maximum(basis.sum(axis=0), np.float32(1e-12))
    start = jnp.maximum(_matmul(mel, _mel_pseudo_inverse(config).T), 1e-2 * _matmul(mel, basis / weight))

    def step(_, magnitude):
        ratio = mel / jnp.maximum(_matmul(magnitude, basis.T), 1e-12)
        return magnitude * _matmul(ratio, basis) / weight

    return jax.lax.fori_loop(0, _MEL_INVERSION_ITERS, step, start)


def _stft(waveform: jax.Array, config: MelConfig) -> jax.Array:
    """[b, samples] -> complex spectrum [b, samples // hop_length, n_fft // 2 + 1], frames as in `log_mel`."""
    win, hop = config.win_length, config.hop_length
    num_frames = waveform.shape[1] // hop
    blocks_per_frame = -(-win // hop)
    padded = jnp.pad(waveform, ((0, 0), (config.padding, config.padding)), mode="reflect")
    # Frames from hop-sized blocks laid side by side: slices only, no gather.
    length = (num_frames + blocks_per_frame - 1) * hop
    padded = jnp.pad(padded, ((0, 0), (0, max(0, length - padded.shape[1]))))[:, :length]
    blocks = padded.reshape(len(waveform), -1, hop)
    frames = jnp.concatenate([blocks[:, i : i + num_frames] for i in range(blocks_per_frame)], axis=-1)
    return jnp.fft.rfft(frames[..., :win] * _hann(config), n=config.n_fft)


def _istft(spectrum: jax.Array, config: MelConfig) -> jax.Array:
    """The least-squares inverse of `_stft`: [b, frames, bins] -> [b, frames * hop_length]."""
    window = _hann(config)
    frames = jnp.fft.irfft(spectrum, n=config.n_fft)[..., : config.win_length] * window
    energy = _overlap_add(np.broadcast_to(window**2, (1, *frames.shape[1:])), config)
    return _overlap_add(frames, config) / energy


def _overlap_add(frames: jax.Array, config: MelConfig) -> jax.Array:
    """[b, frames, win_length] -> [b, frames * hop_length], the padding of `_stft` cut off."""
    b, num_frames, win = frames.shape
    hop = config.hop_length
    blocks_per_frame = -(-win // hop)
    blocks = jnp.pad(frames, ((0, 0), (0, 0), (0, blocks_per_frame * hop - win)))
    blocks = blocks.reshape(b, num_frames, blocks_per_frame, hop)
    total = sum(
        jnp.pad(blocks[:, :, i], ((0, 0), (i, blocks_per_frame - 1 - i), (0, 0))) for i in range(blocks_per_frame)
    )
    return total.reshape(b, -1)[:, config.padding : config.padding + num_frames * hop]


@functools.lru_cache
def _hann(config: MelConfig) -> np.ndarray:
    """Periodic Hann window, float32 [win_length]."""
    turns = np.arange(config.win_length) / config.win_length
    return (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)


def _matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """In full float32: the default of TPUs rounds to bfloat16, which the quiet bands would not survive."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
