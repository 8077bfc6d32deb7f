"""Reads and writes audio files.

Waveforms are at their raw scale here. A file holds their 16-bit values times the gain in its settings (`run.gain_db`),
and reading a file restores exactly these values. A file without a gain has the raw scale.
"""

import io
import math
import os
import pathlib
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import soundfile

from its_jax.media import metadata
from its_jax.media.codec import explain_unreadable, quantize
from its_jax.media.ffmpeg import run_ffmpeg
from its_jax.storage import files
from its_jax.storage.gain import recorded_factor, restore_raw


def write_wav(path: str | os.PathLike, waveform: np.ndarray, sampling_rate: int, settings: dict[str, Any]) -> None:
    """Writes the result of `wav` to a file. UserError: the file cannot be written."""
    files.write(path, wav(waveform, sampling_rate, settings))


def wav(waveform: np.ndarray, sampling_rate: int, settings: dict[str, Any]) -> bytes:
    """Encodes a waveform as 16-bit mono WAV; value = round(32768 x), at most 32767, times the gain in the settings.

    If the gain is negative, the file has 24 bits, so that it still has another value for each 16-bit value.

    The title tag holds the prompts, the comment tag the settings as JSON, and the software tag says that a model
    generated the sound (`its_jax.media.metadata.SOFTWARE`).

    Args:
      waveform: `[samples]` in [-1, 1], at its raw scale. sampling_rate: in Hz.
      settings: the record of the sample; `run.gain_db` in it is the gain.
    """
    # libsndfile can write these tags but drops those longer than 2 KB, so that they are appended here.
    tags = _riff_chunk(b"INAM", metadata.prompts_title(settings).encode() + b"\0")
    tags += _riff_chunk(b"ICMT", files.to_json(settings).encode() + b"\0")
    tags += _riff_chunk(b"ISFT", metadata.SOFTWARE.encode() + b"\0")
    body = plain_wav(waveform, sampling_rate, recorded_factor(settings))[8:] + _riff_chunk(b"LIST", b"INFO" + tags)
    return _riff_chunk(b"RIFF", body)


def plain_wav(waveform: np.ndarray, sampling_rate: int, factor: float = 1.0) -> bytes:
    """Encodes a waveform as `wav` does, with this factor as its gain, without tags."""
    file = io.BytesIO()
    levels, subtype = _to_pcm(waveform, factor)
    soundfile.write(file, levels, sampling_rate, subtype, format="WAV")
    return file.getvalue()


def flac(waveform: np.ndarray, sampling_rate: int, settings: dict[str, Any]) -> bytes:
    """Encodes a waveform as mono FLAC, with the values and the tags of `wav`, whose arguments these are."""
    file = io.BytesIO()
    levels, subtype = _to_pcm(waveform, recorded_factor(settings))
    with soundfile.SoundFile(file, "w", sampling_rate, 1, subtype, format="FLAC") as sound:
        if title := metadata.prompts_title(settings):  # libsndfile refuses an empty title.
            sound.title = title
        sound.comment, sound.software = files.to_json(settings), metadata.SOFTWARE
        sound.write(levels)
    return file.getvalue()


def read_wav(path: str | os.PathLike) -> tuple[np.ndarray, int, dict[str, Any]]:
    """Reads a WAV file that `write_wav` wrote.

    Returns:
      The waveform at its raw scale, float32 `[samples]` in [-1, 1], its sampling rate in Hz, and its settings.

    Raises:
      UserError: the file cannot be read or holds no settings.
    """
    with explain_unreadable(path):
        data = pathlib.Path(path).read_bytes()
        waveform, sampling_rate = soundfile.read(io.BytesIO(data), dtype="float32")
        settings = metadata.parse_settings(path, wav_comment(data))
        return restore_raw(waveform, settings), sampling_rate, settings


def wav_comment(data: bytes) -> str | None:
    """Returns the comment tag of a WAV file, or None if it has none."""
    for name, body in _riff_chunks(data[12:]):
        if name == b"LIST" and body.startswith(b"INFO"):
            comment = dict(_riff_chunks(body[4:])).get(b"ICMT")
            return None if comment is None else comment.rstrip(b"\0").decode(errors="replace")
    return None


def read_audio(path: str | os.PathLike, sampling_rate: int) -> np.ndarray:
    """Reads any audio file or the audio of a video, averages its channels and resamples it.

    A file of ours, also a video, is read at its raw scale.

    Returns:
      float32 `[samples]` at `sampling_rate` Hz.

    Raises:
      UserError: the file cannot be read, is empty, or holds values that are not finite.
    """
    import scipy.signal  # It takes as long to import as all other modules together and is needed only here.

    with explain_unreadable(path):
        path = pathlib.Path(path).expanduser()
        with open(path, "rb") as file:
            try:
                channels, rate, comment = _read_by_libsndfile(file)
            except soundfile.LibsndfileError as error:
                channels, comment = _read_by_ffmpeg(path, sampling_rate, error.error_string)
                rate = sampling_rate
        channels = restore_raw(channels, metadata.settings_or_none(comment) or {})
        if not channels.size or not np.isfinite(channels).all():
            raise ValueError("it holds no sound" if not channels.size else "it holds values that are not finite")
    common = math.gcd(rate, sampling_rate)
    return scipy.signal.resample_poly(channels.mean(axis=1), sampling_rate // common, rate // common)


def _read_by_libsndfile(file: BinaryIO) -> tuple[np.ndarray, int, str | None]:
    """Reads float32 `[samples, channels]`, the sampling rate in Hz, and the comment tag."""
    with soundfile.SoundFile(file) as sound:
        channels = sound.read(dtype="float32", always_2d=True)
        rate, kind, comment = sound.samplerate, sound.format, sound.comment
    if kind.startswith("WAV"):  # of which libsndfile does not read long tags
        file.seek(0)
        comment = wav_comment(file.read())
    return channels, rate, comment


def _read_by_ffmpeg(path: pathlib.Path, sampling_rate: int, reason: str) -> tuple[np.ndarray, str | None]:
    """Decodes a format that libsndfile does not support, such as AAC: float32 `[samples, 1]`, and the comment tag."""
    try:
        samples = run_ffmpeg(
            "-i", f"file:{path}", "-f", "f32le", "-ac", "1", "-rematrix_maxval", "1", "-ar", str(sampling_rate), "-"
        )
    except OSError as error:
        raise ValueError(f"no sound that libsndfile ({reason}) or ffmpeg knows") from error
    # In this format, a backslash precedes each special character of a value, line breaks among them.
    tags = run_ffmpeg("-i", f"file:{path}", "-f", "ffmetadata", "-").decode(errors="replace")
    comment = re.search(r"^comment=((?:\\.|[^\\\n])*)$", tags, re.DOTALL | re.MULTILINE)
    text = re.sub(r"\\(.)", r"\1", comment[1], flags=re.DOTALL) if comment else None
    return np.frombuffer(samples, "<f4")[:, None], text


def _to_pcm(waveform: np.ndarray, factor: float) -> tuple[np.ndarray, str]:
    """Returns the integers of a file, and libsndfile's name of their format."""
    raw = quantize(waveform, -(2**15), 2**15 - 1, 2**15).astype(np.float64)
    if factor >= 1:
        return np.clip(np.rint(raw * factor), -(2**15), 2**15 - 1).astype(np.int16), "PCM_16"
    levels = np.rint(raw * factor * 2**8).astype(np.int32)
    return levels << 8, "PCM_24"  # libsndfile takes the upper 24 of 32 bits.


def _riff_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields name and body of the consecutive chunks in `data`. The last one may be cut off."""
    while len(data) >= 8:
        name, size = struct.unpack_from("<4sI", data)
        yield name, data[8 : 8 + size]
        data = data[8 + size + size % 2 :]
