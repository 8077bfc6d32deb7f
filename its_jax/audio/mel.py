"""Waveform <-> log-mel spectrogram <-> image in [0, 1]."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.errors import UserError


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
    spectrum = stft(waveform, config)
    magnitude = jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    mel = matmul(magnitude, mel_basis(config).T)
    return jnp.log(jnp.maximum(mel, math.exp(config.log_min)))


def mel_to_image(log_mel: jax.Array, config: MelConfig = MelConfig()) -> jax.Array:
    """[b, frames, n_mels] natural log -> [b, n_mels, frames] in [0, 1], clipped, row 0 the highest mel."""
    unit = (log_mel - config.log_min) / (config.log_max - config.log_min)
    return jnp.clip(unit, 0.0, 1.0).swapaxes(-1, -2)[..., ::-1, :]


def image_to_mel(picture: jax.Array, config: MelConfig = MelConfig()) -> jax.Array:
    """[b, n_mels, frames] in [0, 1] -> [b, frames, n_mels] natural log: the inverse of `to_picture`."""
    unit = picture[..., ::-1, :].swapaxes(-1, -2)
    return unit * (config.log_max - config.log_min) + config.log_min


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


def stft(waveform: jax.Array, config: MelConfig) -> jax.Array:
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
    return jnp.fft.rfft(frames[..., :win] * hann(config), n=config.n_fft)


@functools.lru_cache
def hann(config: MelConfig) -> np.ndarray:
    """Periodic Hann window, float32 [win_length]."""
    turns = np.arange(config.win_length) / config.win_length
    return (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """In full float32: the default of TPUs rounds to bfloat16, which the quiet bands would not survive."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
