"""The images and audio that the page shows: in the samples' folders, extracted from tar files, or inside the page."""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from its_jax.media import sounds
from its_jax.storage import files
from its_jax.storage.samples import Sample
from its_jax.storage.writers import FolderWriter

FOLDER = "gallery"  # the folder for files extracted from tar files, which browsers cannot read
_AUDIO = FolderWriter.audio_file
_TYPES = {"png": "image/png", "wav": "audio/wav"}
_THREADS = 8


def folder_name(sample: Sample) -> str:
    """Returns the folder of a sample's files, relative to the page."""
    return f"{FOLDER}/{sample.id}" if sample.is_in_tar else sample.path.name


def extract(samples: Sequence[Sample], workdir: Path) -> None:
    """Copies the files of samples in tar files into folders beside the page, except those that exist already."""
    in_tar = [(sample, workdir / folder_name(sample)) for sample in samples if sample.is_in_tar]
    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(lambda pair: _extract_one(*pair), in_tar):
            pass


def _extract_one(sample: Sample, folder: Path) -> None:
    names = [name for name in _names(sample) if not (folder / name).exists()]
    if names:
        with files.explain_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        files.write(folder / name, _content(sample, name))


def data_urls(samples: Sequence[Sample], max_bytes: int) -> tuple[dict[str, str], int]:
    """Encodes the files of as many of the first samples as have at most `max_bytes` together.

    Returns:
      The files as data URLs, by their path relative to the page, and the number of samples.
    """
    urls: dict[str, str] = {}
    size = 0
    for count, sample in enumerate(samples):
        contents = {name: _content(sample, name) for name in _names(sample)}
        size += sum(map(len, contents.values()))
        if size > max_bytes:
            return urls, count
        for name, content in contents.items():
            media_type = _TYPES[name.rpartition(".")[2]]
            urls[f"{folder_name(sample)}/{name}"] = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    return urls, len(samples)


def _names(sample: Sample) -> tuple[str, ...]:
    """Returns the names of the files that the page shows."""
    return *(f"{name}.png" for name in (*sample.image_names, *sample.colorings)), _AUDIO


def _content(sample: Sample, name: str) -> bytes:
    if name == _AUDIO and name not in sample.files:  # It is FLAC, in which Chromium cannot seek reliably.
        waveform, sampling_rate = sample.read_audio()
        return sounds.wav(waveform, sampling_rate, dict(sample.record))
    return sample.read(name)
