"""What CLIP and CLAP are given of pictures and sounds, as their processors make it: on the host, by Pillow and numpy.

Both follow `preprocessor_config.json` of openai/clip-vit-base-patch16 and laion/clap-htsat-unfused.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.signal
from PIL import Image

from its_jax.audio.mel import MelConfig, mel_basis
from its_jax.config_fields import check_sizes, read_fields
from its_jax.errors import UserError

# What CLIP's processor does with every picture, and what says the same in other words.
_PICTURES_FIXED = {f"do_{step}": (True,) for step in ("resize", "center_crop", "normalize", "convert_rgb", "rescale")}
_PICTURES_FIXED |= {"resample": (3,), "rescale_factor": (1 / 255,)}  # 3: Pillow's bicubic
_PICTURES_IGNORED = ("feature_extractor_type", "image_processor_type", "processor_class")
_FLOOR = 1e-10  # of a power, before its logarithm


@dataclasses.dataclass(frozen=True)
class CLIPImageProcessor:
    """Of CLIP's processor.

    Attributes:
      size: pixels of the shorter side, and of the square that is cut from the middle.
      image_mean, image_std: of each channel, in [0, 1].
    """

    size: int = 224
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "CLIPImageProcessor":
        """Reads a parsed `preprocessor_config.json`, old or new; raises `UserError` for what is not done here."""
        raw = dict(raw) | {name: _side(raw[name]) for name in ("size", "crop_size") if name in raw}
        crop = raw.pop("crop_size", None)
        features = read_fields(cls, raw, fixed=_PICTURES_FIXED, ignored=_PICTURES_IGNORED)
        check_sizes(features, "size")
        if crop not in (None, features.size):
            raise UserError(f"{cls.__name__}: crop_size={crop!r} is not supported, only the size, {features.size}")
        return features

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """uint8 `[h, w, 3]` -> float32 `[size, size, 3]`, normalised."""
        height, width = picture.shape[:2]
        shorter = min(height, width)
        scaled = (int(self.size * width / shorter), int(self.size * height / shorter))
        picture = np.asarray(Image.fromarray(picture).resize(scaled, Image.Resampling.BICUBIC))
        top, left = ((n - self.size) // 2 for n in picture.shape[:2])
        picture = picture[top : top + self.size, left : left + self.size].astype(np.float32) / 255
        return (picture - np.float32(self.image_mean)) / np.float32(self.image_std)


def _side(size):
    """Of a square, which old files tell as a number, new ones as {"shortest_edge": 224} or by height and width."""
    sides = set(size.values()) if isinstance(size, Mapping) else {size}
    return sides.pop() if len(sides) == 1 else size


@dataclasses.dataclass(frozen=True)
class ClapFeatureExtractor:
    """Of CLAP's processor, for models without fusion of long sounds.

    Attributes:
      sampling_rate: Hz. fft_window_size, hop_length: samples. feature_size: mel bands.
      frequency_min, frequency_max: Hz. max_length_s: seconds that the model hears.
    """

    sampling_rate: int = 48000
    fft_window_size: int = 1024
    hop_length: int = 480
    feature_size: int = 64
    frequency_min: float = 50.0
    frequency_max: float = 14000.0
    max_length_s: int = 10

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ClapFeatureExtractor":
        """Reads a parsed `preprocessor_config.json`; raises `UserError` for what is not done here."""
        fixed = {"truncation": ("rand_trunc",), "padding": ("repeatpad",), "padding_value": (0, 0.0), "top_db": (None,)}
        ignored = ("chunk_length_s", "feature_extractor_type", "n_fft", "nb_frequency_bins", "nb_max_frames")
        ignored += ("nb_max_samples", "padding_side", "processor_class", "return_attention_mask")
        features = read_fields(cls, raw, fixed=fixed, ignored=ignored)
        check_sizes(features, "sampling_rate", "fft_window_size", "hop_length", "feature_size", "max_length_s")
        return features

    def __call__(self, waveform: np.ndarray, start: int = 0) -> np.ndarray:
        """`[samples]` at `sampling_rate` -> log-mel power in dB, float32 `[frames, feature_size]`.

        A shorter sound is repeated as often as it fits, and filled up with silence.

        Args:
          start: of the stretch that is heard of a longer one; CLAP's processor draws it.
        """
        length = self.max_length_s * self.sampling_rate
        waveform = waveform[start : start + length]
        waveform = np.tile(waveform, length // len(waveform))
        half = self.fft_window_size // 2
        padded = np.pad(np.pad(waveform, (0, length - len(waveform))).astype(np.float64), half, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.fft_window_size)[:: self.hop_length]
        # The window in float64, and the spectrum kept in float32, are heard in what is 130 dB below the loudest.
        spectrum = np.fft.rfft(frames * scipy.signal.get_window("hann", self.fft_window_size)).astype(np.complex64)
        power = np.abs(spectrum, dtype=np.float64) ** 2
        return (10 * np.log10(np.maximum(power @ mel_basis(self._mel).T, _FLOOR))).astype(np.float32)

    @property
    def frames(self) -> int:
        """Of what is made of any sound."""
        return 1 + self.max_length_s * self.sampling_rate // self.hop_length

    @property
    def _mel(self):
        size, bands = self.fft_window_size, self.feature_size
        limits = dict(fmin=self.frequency_min, fmax=self.frequency_max)
        return MelConfig(self.sampling_rate, size, size, self.hop_length, bands, **limits)
