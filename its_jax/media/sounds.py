"""WAV and FLAC files and other sounds."""

import io
import math
import os
import pathlib
import struct
from collections.abc import Iterator

import numpy as np
import soundfile

from its_jax.media import metadata
from its_jax.media.ffmpeg import run_ffmpeg
from its_jax.media.metadata import explain_unreadable, parse_tag, prompts_title, quantize
from its_jax.storage import files
from its_jax.storage.files import to_json


def write_wav(path: str | os.PathLike, waveform: np.ndarray, sampling_rate: int, settings: dict) -> None:
    """See `wav`. UserError: cannot write."""
    files.write(path, wav(waveform, sampling_rate, settings))


def wav(waveform: np.ndarray, sampling_rate: int, settings: dict) -> bytes:
    """16-bit mono WAV; value = round(32768 x), at most 32767.

    The title tag holds the prompts, the comment tag `settings` as JSON, the software tag the mark of `its_jax.media.metadata`.
    """
    # libsndfile could write these tags, but drops those longer than 2 KB: they are appended by hand.
    tags = _riff_chunk(b"INAM", prompts_title(settings).encode() + b"\0")
    tags += _riff_chunk(b"ICMT", to_json(settings).encode() + b"\0")
    tags += _riff_chunk(b"ISFT", metadata.SOFTWARE.encode() + b"\0")
    body = plain_wav(waveform, sampling_rate)[8:] + _riff_chunk(b"LIST", b"INFO" + tags)
    return _riff_chunk(b"RIFF", body)


def flac(waveform: np.ndarray, sampling_rate: int, settings: dict) -> bytes:
    """16-bit mono FLAC, the values and tags of `wav`."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", sampling_rate, 1, format="FLAC") as sound:
        if title := prompts_title(settings):  # an empty one is refused
            sound.title = title
        sound.comment, sound.software = to_json(settings), metadata.SOFTWARE
        sound.write(_to_pcm(waveform))
    return file.getvalue()


def read_wav(path: str | os.PathLike) -> tuple[np.ndarray, int, dict]:
    """-> float32 waveform, sampling rate in Hz, settings. UserError: cannot read, or no settings in it."""
    with explain_unreadable(path):
        data = pathlib.Path(path).read_bytes()
        waveform, sampling_rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return waveform, sampling_rate, parse_tag(path, wav_comment(data))


def read_audio(path: str | os.PathLike, sampling_rate: int) -> np.ndarray:
    """Any sound, its channels averaged and resampled -> float32 waveform. UserError: cannot read, or it is empty."""
    import scipy.signal  # as slow to import as all else together, and needed here only

    with explain_unreadable(path):
        path = pathlib.Path(path).expanduser()
        with open(path, "rb") as file:
            try:
                channels, rate = soundfile.read(file, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                channels, rate = _read_by_ffmpeg(path, sampling_rate, error.error_string), sampling_rate
        if not channels.size or not np.isfinite(channels).all():
            raise ValueError("it holds no sound" if not channels.size else "it holds values that are not finite")
    common = math.gcd(rate, sampling_rate)
    return scipy.signal.resample_poly(channels.mean(axis=1), sampling_rate // common, rate // common)


def _read_by_ffmpeg(path, sampling_rate, reason):
    """What libsndfile does not know (AAC, the sound of a video) -> float32 `[samples, 1]`."""
    try:
        samples = run_ffmpeg(
            "-i", f"file:{path}", "-f", "f32le", "-ac", "1", "-rematrix_maxval", "1", "-ar", str(sampling_rate), "-"
        )
    except OSError as error:
        raise ValueError(f"no sound that libsndfile ({reason}) or ffmpeg knows") from error
    return np.frombuffer(samples, "<f4")[:, None]


def plain_wav(waveform: np.ndarray, sampling_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, _to_pcm(waveform), sampling_rate, format="WAV")
    return file.getvalue()


def _to_pcm(waveform: np.ndarray) -> np.ndarray:
    return quantize(waveform, -32768, 32767, 32768).astype(np.int16)


def _riff_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of the chunks laid end to end in `data`; the last may be cut off."""
    while len(data) >= 8:
        name, size = struct.unpack_from("<4sI", data)
        yield name, data[8 : 8 + size]
        data = data[8 + size + size % 2 :]


def wav_comment(data: bytes) -> str | None:
    for name, body in _riff_chunks(data[12:]):
        if name == b"LIST" and body.startswith(b"INFO"):
            comment = dict(_riff_chunks(body[4:])).get(b"ICMT")
            return None if comment is None else comment.rstrip(b"\0").decode(errors="replace")
    return None
