"""Computes the inputs of CLIP and CLAP from images and audio, on the host, with Pillow and NumPy.

Both processors follow `preprocessor_config.json` of openai/clip-vit-base-patch16 and laion/clap-htsat-unfused.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from its_jax.audio.mel import MelConfig, mel_basis
from its_jax.config_fields import check_sizes, read_fields
from its_jax.errors import UserError

# CLIP's processor takes these steps with every image.
_IMAGE_STEPS = ("resize", "center_crop", "normalize", "convert_rgb", "rescale")
_IMAGE_FIXED: dict[str, tuple[Any, ...]] = {f"do_{step}": (True,) for step in _IMAGE_STEPS}
_IMAGE_FIXED |= {"resample": (3,), "rescale_factor": (1 / 255,)}  # 3: Pillow's bicubic
_IMAGE_IGNORED = ("feature_extractor_type", "image_processor_type", "processor_class")
_AUDIO_FIXED: dict[str, tuple[Any, ...]] = {
    "truncation": ("rand_trunc",),
    "padding": ("repeatpad",),
    "padding_value": (0, 0.0),
    "top_db": (None,),
}
_AUDIO_IGNORED = (
    "chunk_length_s",
    "feature_extractor_type",
    "n_fft",
    "nb_frequency_bins",
    "nb_max_frames",
    "nb_max_samples",
    "padding_side",
    "processor_class",
    "return_attention_mask",
)
_FLOOR = 1e-10  # the lowest power of which a logarithm is taken


@dataclasses.dataclass(frozen=True)
class CLIPImageProcessor:
    """CLIP's image preprocessing.

    Attributes:
      size: pixels of the shorter side after scaling, and of the square that is cropped from the center.
      image_mean, image_std: mean and standard deviation of each channel, in [0, 1].
    """

    size: int = 224
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "CLIPImageProcessor":
        """Reads a parsed `preprocessor_config.json`, old or new; raises `UserError` for unsupported settings."""
        raw = dict(raw) | {name: _side(raw[name]) for name in ("size", "crop_size") if name in raw}
        crop = raw.pop("crop_size", None)
        processor = read_fields(cls, raw, fixed=_IMAGE_FIXED, ignored=_IMAGE_IGNORED)
        check_sizes(processor, "size")
        if crop not in (None, processor.size):
            raise UserError(f"{cls.__name__}: crop_size={crop!r} is not supported, only the size, {processor.size}")
        return processor

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Scales, crops and normalizes an image: uint8 `[h, w, 3]` -> float32 `[size, size, 3]`."""
        height, width = image.shape[:2]
        shorter = min(height, width)
        scaled = (int(self.size * width / shorter), int(self.size * height / shorter))
        image = np.asarray(Image.fromarray(image).resize(scaled, Image.Resampling.BICUBIC))
        top, left = ((n - self.size) // 2 for n in image.shape[:2])
        image = image[top : top + self.size, left : left + self.size].astype(np.float32) / 255
        return (image - np.asarray(self.image_mean, np.float32)) / np.asarray(self.image_std, np.float32)


def _side(size):
    """Returns the side of a square, which old files give as a number, new ones by name or as height and width."""
    sides = set(size.values()) if isinstance(size, Mapping) else {size}
    return sides.pop() if len(sides) == 1 else size


@dataclasses.dataclass(frozen=True)
class ClapFeatureExtractor:
    """CLAP's audio preprocessing, for models without fusion of long audio.

    Attributes:
      sampling_rate: Hz.
      fft_window_size, hop_length: samples.
      feature_size: mel bands.
      frequency_min, frequency_max: Hz.
      max_length_s: seconds that the model receives.
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
        """Reads a parsed `preprocessor_config.json`; raises `UserError` for unsupported settings."""
        extractor = read_fields(cls, raw, fixed=_AUDIO_FIXED, ignored=_AUDIO_IGNORED)
        check_sizes(extractor, "sampling_rate", "fft_window_size", "hop_length", "feature_size", "max_length_s")
        return extractor

    def __call__(self, waveform: np.ndarray, start: int = 0) -> np.ndarray:
        """Computes the log-mel spectrogram of a waveform.

        Shorter audio is repeated while it fits and then padded with silence.

        Args:
          waveform: `[samples]` at `sampling_rate`.
          start: where the section begins that is taken of longer audio; CLAP's processor draws it at random.

        Returns:
          Power in dB, float32 `[num_frames, feature_size]`.
        """
        import scipy.signal  # It is slow to import, and is needed only here.

        length = self.max_length_s * self.sampling_rate
        waveform = waveform[start : start + length]
        waveform = np.tile(waveform, length // len(waveform))
        half = self.fft_window_size // 2
        padded = np.pad(np.pad(waveform, (0, length - len(waveform))).astype(np.float64), half, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.fft_window_size)[:: self.hop_length]
        # A float64 window and a complex64 spectrum, as in transformers, matter 130 dB below the loudest.
        spectrum = np.fft.rfft(frames * scipy.signal.get_window("hann", self.fft_window_size)).astype(np.complex64)
        power = np.abs(spectrum, dtype=np.float64) ** 2
        return (10 * np.log10(np.maximum(power @ mel_basis(self._mel).T, _FLOOR))).astype(np.float32)

    @property
    def num_frames(self) -> int:
        """Returns the number of frames, which is the same for all audio."""
        return 1 + self.max_length_s * self.sampling_rate // self.hop_length

    @property
    def _mel(self):
        size, bands = self.fft_window_size, self.feature_size
        limits = dict(fmin=self.frequency_min, fmax=self.frequency_max)
        return MelConfig(self.sampling_rate, size, size, self.hop_length, bands, **limits)
