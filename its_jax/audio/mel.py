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
    """The parameters of the mel front end, by default Auffusion's.

    Frequencies are in Hz, `n_fft`, `win_length` and `hop_length` in samples. `log_min` and `log_max` are natural
    logarithms of mel magnitudes: `log_min` is the floor and black in the image, `log_max` is white.
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

    def __post_init__(self) -> None:
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
        """Returns the number of samples that are reflected at either end.

        By definition it is (n_fft - hop_length) / 2. The window, however, is zero outside its center, so that frames of
        `win_length` samples suffice, and only the padding within their reach is needed.
        """
        return (self.win_length - self.hop_length) // 2


def log_mel(waveform: jax.Array, config: MelConfig) -> jax.Array:
    """Computes log-mel spectrograms, natural log with a floor of `log_min`.

    `[b, samples]` -> `[b, samples // hop_length, n_mels]`.
    """
    spectrum = stft(waveform, config)
    magnitude = jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    mel = matmul(magnitude, mel_basis(config).T)
    return jnp.log(jnp.maximum(mel, math.exp(config.log_min)))


def mel_to_image(log_mel: jax.Array, config: MelConfig = MelConfig()) -> jax.Array:
    """Converts log-mel spectrograms to images in [0, 1], clipped, with the highest mel in row 0.

    `[b, frames, n_mels]` -> `[b, n_mels, frames]`.
    """
    unit = (log_mel - config.log_min) / (config.log_max - config.log_min)
    return jnp.clip(unit, 0.0, 1.0).swapaxes(-1, -2)[..., ::-1, :]


def image_to_mel(image: jax.Array, config: MelConfig = MelConfig()) -> jax.Array:
    """Converts images in [0, 1] to log-mel spectrograms, the inverse of `mel_to_image`.

    `[b, n_mels, frames]` -> `[b, frames, n_mels]`, natural log.
    """
    unit = image[..., ::-1, :].swapaxes(-1, -2)
    return unit * (config.log_max - config.log_min) + config.log_min


@functools.lru_cache
def mel_edges(config: MelConfig) -> np.ndarray:
    """Returns the edges of the mel bands, Hz `[n_mels + 2]`.

    Band i is a triangle from edge i to edge i + 2 with its top at edge i + 1. The scale (Slaney, Auditory Toolbox,
    1998) is linear up to 1000 Hz = 15 mel and logarithmic above, where 27 mels span a factor of 6.4.
    """
    log_step = math.log(6.4) / 27

    def to_mel(hz):
        return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) / log_step

    mels = np.linspace(to_mel(config.fmin), to_mel(config.fmax), config.n_mels + 2)
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(log_step * (mels - 15)))


@functools.lru_cache
def mel_basis(config: MelConfig) -> np.ndarray:
    """Returns Slaney's mel filter bank, triangles of unit area in Hz: float32 `[n_mels, n_fft // 2 + 1]`."""
    edges = mel_edges(config)
    low, center, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.arange(config.n_fft // 2 + 1) * config.sampling_rate / config.n_fft
    triangles = np.minimum((bins - low) / (center - low), (high - bins) / (high - center))
    return (np.maximum(triangles, 0) * 2 / (high - low)).astype(np.float32)


def stft(waveform: jax.Array, config: MelConfig) -> jax.Array:
    """Computes the short-time Fourier transform with the frames of `log_mel`.

    `[b, samples]` -> complex `[b, samples // hop_length, n_fft // 2 + 1]`.
    """
    win, hop = config.win_length, config.hop_length
    num_frames = waveform.shape[1] // hop
    blocks_per_frame = -(-win // hop)
    padded = jnp.pad(waveform, ((0, 0), (config.padding, config.padding)), mode="reflect")
    # A frame is a row of adjacent hop-sized blocks, so that slices suffice and no gather is needed.
    length = (num_frames + blocks_per_frame - 1) * hop
    padded = jnp.pad(padded, ((0, 0), (0, max(0, length - padded.shape[1]))))[:, :length]
    blocks = padded.reshape(len(waveform), -1, hop)
    frames = jnp.concatenate([blocks[:, i : i + num_frames] for i in range(blocks_per_frame)], axis=-1)
    return jnp.fft.rfft(frames[..., :win] * hann(config), n=config.n_fft)


@functools.lru_cache
def hann(config: MelConfig) -> np.ndarray:
    """Returns the periodic Hann window, float32 `[win_length]`."""
    turns = np.arange(config.win_length) / config.win_length
    return (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)


def matmul(x: jax.Array | np.ndarray, y: jax.Array | np.ndarray) -> jax.Array:
    """Multiplies matrices in full float32. TPUs round to bfloat16 by default, which spoils the quiet bands."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
