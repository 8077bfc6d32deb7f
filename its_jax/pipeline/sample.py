"""A generated sample: arrays in memory, and the files that hold them."""

import dataclasses
import functools
import html
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from its_jax.errors import UserError
from its_jax.media import images, sounds, videos
from its_jax.media.loudness import choose_gain_db
from its_jax.media.player import player
from its_jax.pipeline import record
from its_jax.settings.ids import sample_id
from its_jax.settings.records import RECORD, VIDEO
from its_jax.settings.schema import LOUDNESS, TERMS, SampleSettings
from its_jax.storage import files
from its_jax.storage.files import json_bytes
from its_jax.storage.writers import FolderWriter


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sample:
    """One generated sample.

    Images and the spectrogram hold exactly what their files hold, `crop_image` applied.

    Attributes:
      settings: of the sample.
      images: for `image`, and for each term with another view, float32 `[H, W, 3]` in [0, 1], as the term sees it.
      spectrogram: float32 `[H, W]` in [0, 1], low frequencies at the bottom; what was played.
      audio: float32 `[samples]` in [-1, 1], as generated: before it is scaled by `gain_db`, and rounded to the 16 bits
        of a file.
      sampling_rate: of `audio`, in Hz.
      latents: float32 `[h, w, 4]`; two of them for `imprint`, an image for `sds`.
      failed_at: the first step with a non-finite latent, or -1.
      models: for each term the identity of its model.
      batch_index, batch_size: index in the batch, and the number of samples that were generated at once.
      devices_per_sample: how many devices shared the sample.
      seconds: for each stage the duration of its batch.
      state_folder: a folder to be removed once all samples of the batch are written, or None.
      with_video: whether `save` writes a video by default, as the setting `video` says.
      loudness: of written audio in LUFS, as the setting `loudness` says; None is the raw scale.
    """

    settings: SampleSettings
    images: Mapping[str, np.ndarray]
    spectrogram: np.ndarray
    audio: np.ndarray
    sampling_rate: int
    latents: Any
    failed_at: int = -1
    models: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batch_index: int = 0
    batch_size: int = 1
    devices_per_sample: int = 1
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    state_folder: Path | None = None
    with_video: bool = False
    loudness: float | None = LOUDNESS

    @property
    def id(self) -> str:
        """Returns the name of the sample's folder; equal settings give equal ids."""
        return sample_id(self.settings)

    @property
    def seed(self) -> int:
        """Returns the seed of the initial noise."""
        return self.settings.seed

    @property
    def image(self) -> np.ndarray:
        """Returns the image as the term `image` sees it, float32 `[H, W, 3]` in [0, 1]."""
        return self.images["image"]

    @functools.cached_property
    def gain_db(self) -> float:
        """Returns the gain in dB at which the audio is written and played, see `its_jax.media.loudness`."""
        return choose_gain_db(self.audio, self.sampling_rate, self.loudness)

    @property
    def fault(self) -> str | None:
        """Returns why the sample cannot be written, or None."""
        if self.failed_at >= 0:
            return f"the latents are not finite from step {self.failed_at} on"
        if not all(np.isfinite(array).all() for array in (*self.images.values(), self.spectrogram, self.audio)):
            return "the latents are finite, but what they decode to is not: use a dtype of greater range"
        return None

    def record(self, video: bool = False) -> dict[str, Any]:
        """Returns everything that is needed to generate the sample again, as sample.json holds it.

        Args:
          video: whether a video is written, too.
        """
        run = record.run_record(
            self.latents,
            batch_size=self.batch_size,
            batch_index=self.batch_index,
            devices_per_sample=self.devices_per_sample,
            video=video,
            loudness=self.loudness,
            gain_db=self.gain_db,
        )
        about = {"id": self.id, "run": run, "models": dict(self.models), "versions": record.versions()}
        return self.settings.to_dict() | about

    def save(self, workdir: str | Path, video: bool | None = None) -> Path:
        """Writes WORKDIR/<id>/ with the files that `python -m its_jax.sample` writes; returns that folder.

        Args:
          workdir: a folder, or gs://BUCKET/FOLDER. It is made if it does not exist.
          video: whether to write video.mp4, too; by default as the setting `video` says.

        Raises:
          UserError: the sample is not finite, or the folder cannot be written.
        """
        folder = files.to_path(workdir)
        if self.fault:
            raise UserError(f"{self.id}: {self.fault}")
        about = self.record(self.with_video if video is None else video)
        FolderWriter(folder).add(self.id, encode_files(self, about, FolderWriter.audio_file))
        return folder / self.id

    def __repr__(self) -> str:
        """Returns one line with the sample's id and sizes."""
        height, width = self.spectrogram.shape
        return f"Sample({self.id!r}, {height} x {width} pixels, {len(self.audio) / self.sampling_rate:.2f} s)"

    def _repr_html_(self) -> str:
        """Returns the image and an audio player, which notebooks show."""
        if self.fault:
            return html.escape(f"{self.id}: {self.fault}")
        about = self.record()
        prompts = " | ".join(self.settings.terms[term].prompt for term in TERMS)
        image = images.png(self.image, about)
        audio = sounds.wav(self.audio, self.sampling_rate, about)
        return player(f"{prompts} · seed {self.seed}", image, audio)


def encode_files(sample: Sample, about: dict[str, Any], sound: str) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a sample as (name, bytes), the record last.

    Args:
      about: the record, see `Sample.record`; its `run.video` says whether there is a video.
      sound: name of the sound's file, 'audio.wav' or 'audio.flac'.
    """
    start = time.perf_counter()
    for term, image in sample.images.items():
        yield f"{term}.png", images.png(image, about)
    yield "spectrogram.png", images.png(sample.spectrogram, about)
    encode = sounds.flac if sound.endswith(".flac") else sounds.wav
    yield sound, encode(sample.audio, sample.sampling_rate, about)
    if about["run"]["video"]:
        image_prompt, audio_prompt = (sample.settings.terms[term].prompt for term in TERMS)
        sound_and_rate = sample.audio, sample.sampling_rate
        yield VIDEO, videos.video(sample.spectrogram, *sound_and_rate, image_prompt, audio_prompt, settings=about)
    yield RECORD, json_bytes(about | {"seconds": {**sample.seconds, "write": time.perf_counter() - start}})
