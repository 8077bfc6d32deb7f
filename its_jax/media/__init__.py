"""Arrays -> png, wav, mp4 and json files that hold the settings they were made with, and back.

A picture is float [h, w] (grey) or [h, w, 3] (RGB) in [0, 1], a waveform float [samples] in [-1, 1] at
`sampling_rate` Hz, settings a dict of JSON values. Values beyond these ranges are clipped, non-finite ones a
ValueError. `png`, `wav`, `flac`, `video` and `text` give the bytes of a file, `write_...` put them into one, which
appears whole or not at all.
"""

import contextlib
import io
import json
import math
import os
import pathlib
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator

import imageio_ffmpeg
import numpy as np
import soundfile
from PIL import Image, ImageOps, PngImagePlugin

from its_jax import fields, files, marks, typeset
from its_jax.errors import UserError

Path = str | os.PathLike

_PNG_KEY = "its_jax"
_LINE = 64  # between pictures, of so many times its height


def write_png(path: Path, picture: np.ndarray, settings: dict) -> None:
    """See `png`. UserError: cannot write."""
    files.write(path, png(picture, settings))


def png(picture: np.ndarray, settings: dict) -> bytes:
    """8-bit PNG; value = round(255 x), ties to even.

    `settings` go as JSON into an iTXt chunk `its_jax`; for other programs a chunk `parameters` tells prompts
    and main settings in the form of AUTOMATIC1111's web UI, and XMP marks it as made by models.
    """
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", _parameters(settings))
    info.add_itxt(_PNG_KEY, _to_json(settings))
    info.add_itxt(marks.XMP_KEY, marks.XMP)
    file = io.BytesIO()
    _to_image(picture).save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def read_png(path: Path) -> tuple[np.ndarray, dict]:
    """-> float32 picture, settings. UserError: cannot read, or no settings in it."""
    image, text = _open_png(path)
    image = image if image.mode == "L" else image.convert("RGB")
    return np.asarray(image, np.float32) / 255, _from_tag(path, text)


def write_wav(path: Path, waveform: np.ndarray, sampling_rate: int, settings: dict) -> None:
    """See `wav`. UserError: cannot write."""
    files.write(path, wav(waveform, sampling_rate, settings))


def wav(waveform: np.ndarray, sampling_rate: int, settings: dict) -> bytes:
    """16-bit mono WAV; value = round(32768 x), at most 32767.

    The title tag holds the prompts, the comment tag `settings` as JSON, the software tag the mark of `its_jax.marks`.
    """
    # libsndfile could write these tags, but drops those longer than 2 KB: they are appended by hand.
    tags = _riff_chunk(b"INAM", _title(settings).encode() + b"\0")
    tags += _riff_chunk(b"ICMT", _to_json(settings).encode() + b"\0")
    tags += _riff_chunk(b"ISFT", marks.SOFTWARE.encode() + b"\0")
    body = _wav(waveform, sampling_rate)[8:] + _riff_chunk(b"LIST", b"INFO" + tags)
    return _riff_chunk(b"RIFF", body)


def flac(waveform: np.ndarray, sampling_rate: int, settings: dict) -> bytes:
    """16-bit mono FLAC, the values and tags of `wav`."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", sampling_rate, 1, format="FLAC") as sound:
        if title := _title(settings):  # an empty one is refused
            sound.title = title
        sound.comment, sound.software = _to_json(settings), marks.SOFTWARE
        sound.write(_to_pcm(waveform))
    return file.getvalue()


def read_wav(path: Path) -> tuple[np.ndarray, int, dict]:
    """-> float32 waveform, sampling rate in Hz, settings. UserError: cannot read, or no settings in it."""
    with _reading(path):
        data = pathlib.Path(path).read_bytes()
        waveform, sampling_rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return waveform, sampling_rate, _from_tag(path, _wav_comment(data))


def read_picture(path: Path, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Any picture -> float32 `[height, width, 3]`. UserError: cannot read.

    What is transparent is black, which is silent.

    Args:
      height, width: of a canvas that it is scaled to fill, and cut to; None: as it is.
    """
    with _reading(path), Image.open(pathlib.Path(path).expanduser()) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode[0] in "IF":  # of more than 8 bits, at which Pillow would cut
            upright = Image.fromarray(_eight_bits(np.asarray(upright)))
        if upright.has_transparency_data:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "black"), upright.convert("RGBA"))
        picture = upright.convert("RGB")
        if height is not None and width is not None:
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.float32) / 255


def _eight_bits(values):
    """Grey of 16 or 32 bits, or real numbers: white is the first of these that no value exceeds."""
    white = {"u": (65535,), "i": (255, 65535), "f": (1, 255, 65535)}[values.dtype.kind]
    white = next((white for white in white if values.max() <= white), None)
    if white is None or not values.min() >= 0:
        raise ValueError(f"its values are {values.min():g} to {values.max():g}, which is no shade of grey")
    return np.round(values * (255 / white)).astype(np.uint8)


def read_sound(path: Path, sampling_rate: int) -> np.ndarray:
    """Any sound, its channels averaged and resampled -> float32 waveform. UserError: cannot read, or it is empty."""
    import scipy.signal  # as slow to import as all else together, and needed here only

    with _reading(path):
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
        samples = _ffmpeg(
            "-i", f"file:{path}", "-f", "f32le", "-ac", "1", "-rematrix_maxval", "1", "-ar", str(sampling_rate), "-"
        )
    except OSError as error:
        raise ValueError(f"no sound that libsndfile ({reason}) or ffmpeg knows") from error
    return np.frombuffer(samples, "<f4")[:, None]


def write_json(path: Path, content: dict) -> None:
    """See `text`. UserError: cannot write."""
    files.write(path, text(content))


def text(content: dict) -> bytes:
    """Indented JSON in UTF-8."""
    return (_to_json(content, ensure_ascii=False, indent=2) + "\n").encode(errors="backslashreplace")


def read_settings(path: Path) -> dict:
    """The settings in a .png, .wav or .json of this module. UserError: cannot read, or there are none."""
    suffix = pathlib.Path(path).suffix.lower()
    if suffix == ".json":
        return fields.read_json(path)
    if suffix == ".png":
        return _from_tag(path, _open_png(path)[1])
    if suffix == ".wav":
        with _reading(path):
            data = pathlib.Path(path).read_bytes()
        return _from_tag(path, _wav_comment(data))
    raise UserError(f"{path}: settings are read from .png, .wav and .json files only")


def write_video(path: Path, *content, **options) -> None:
    """See `video`. UserError: cannot write, or ffmpeg fails."""
    with files.reasons(path):
        data = video(*content, **options)
    files.write(path, data)


def video(
    picture: np.ndarray,
    waveform: np.ndarray,
    sampling_rate: int,
    image_prompt: str,
    audio_prompt: str,
    fps: int = 30,
    settings: dict | None = None,
) -> bytes:
    """mp4 (H.264, yuv420p, AAC): the picture between its prompts, under a playhead that follows the sound.

    The picture spans the whole sound: at second t the playhead is t / duration of its width from the left.
    The number of frames is duration * fps, rounded. The title tag holds the prompts, the comment tag `settings` as
    JSON, the description the mark of `its_jax.marks`. OSError: ffmpeg fails.
    """
    slide, (left, top, width, height) = typeset.slide(_to_image(picture), image_prompt, audio_prompt)
    playhead = typeset.playhead(height)
    duration = len(waveform) / sampling_rate
    num_frames = max(1, round(duration * fps))
    left -= playhead.width // 2
    # The stills are converted once, before the loop; halved chroma (4:2:0) comes last, for it would make the
    # playhead move by two pixels at a time.
    colours = "scale=out_color_matrix=bt709:out_range=tv"
    graph = (
        f"[0:v]{colours},format=yuv444p,loop={num_frames - 1}:1,setpts=N/{fps}/TB[slide];"
        f"[1:v]{colours},format=yuva444p[playhead];"
        f"[slide][playhead]overlay=x='{left}+floor({width}*t/{duration})':y={top}:format=yuv444,format=yuv420p,"
        "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709[video]"
    )
    title = " | ".join(map(typeset.one_line, (image_prompt, audio_prompt)))
    tags = {"title": title, "comment": _to_json(settings or {})}
    tags["description"] = marks.SOFTWARE
    told = [part for name, text in tags.items() for part in ("-metadata", f"{name}={text}")]
    with tempfile.TemporaryDirectory() as folder:
        slide.save(f"{folder}/slide.png", compress_level=1)  # prompts reach ffmpeg as pixels only
        playhead.save(f"{folder}/playhead.png")
        pathlib.Path(folder, "sound.wav").write_bytes(_wav(waveform, sampling_rate))
        _ffmpeg("-framerate", f"{fps}", "-f", "png_pipe", "-i", f"file:{folder}/slide.png",
                "-f", "png_pipe", "-i", f"file:{folder}/playhead.png", "-i", f"file:{folder}/sound.wav",
                "-filter_complex", graph, "-map", "[video]", "-map", "2:a",
                "-c:v", "libx264", "-preset", "veryfast", "-tune", "stillimage", "-crf", "18",
                "-c:a", "aac", "-b:a", "96k", "-movflags", "+faststart", *told,
                "-f", "mp4", f"file:{folder}/video.mp4")  # fmt: skip
        return pathlib.Path(folder, "video.mp4").read_bytes()


def above(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """One picture above another of its width, with a dark line between them -> `[h, w, 3]`."""
    upper, lower = (np.repeat(x[..., None], 3, axis=-1) if x.ndim == 2 else x for x in (upper, lower))
    line = np.zeros((max(1, len(lower) // _LINE), *lower.shape[1:]), lower.dtype)
    return np.concatenate([upper, line, lower])


def contact_sheet(pictures: list[np.ndarray], captions: list[str], columns: int) -> np.ndarray:
    """Pictures in rows of `columns`, each above its caption -> RGB picture.

    A caption's lines are cut to the width of a picture; the first is bright, those after a newline dim.
    """
    sheet = typeset.contact_sheet([_to_image(picture) for picture in pictures], captions, columns)
    return np.asarray(sheet, np.float32) / 255


def _to_image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(_quantise(picture, 0, 255, 255).astype(np.uint8))


def _wav(waveform: np.ndarray, sampling_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, _to_pcm(waveform), sampling_rate, format="WAV")
    return file.getvalue()


def _to_pcm(waveform: np.ndarray) -> np.ndarray:
    return _quantise(waveform, -32768, 32767, 32768).astype(np.int16)


def _quantise(values: np.ndarray, low: int, high: int, scale: int) -> np.ndarray:
    values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError("non-finite values cannot be written")
    return np.clip(np.rint(values * scale), low, high)


def _prompts(settings: dict) -> dict[str, str]:
    """The prompt of each term: a term is a dict that has one."""
    return {
        name: typeset.one_line(term["prompt"])
        for name, term in settings.items()
        if isinstance(term, dict) and "prompt" in term
    }


def _title(settings: dict) -> str:
    return " | ".join(_prompts(settings).values())


def _parameters(settings: dict) -> str:
    """A line for each prompt, then `Steps: .., Sampler: .., Seed: .., Size: ..`, as far as they are set."""
    lines = [f"{name}: {prompt}" for name, prompt in _prompts(settings).items()]
    values = {
        label: settings[key]
        for label, key in (("Steps", "num_steps"), ("Sampler", "solver"), ("Seed", "seed"))
        if key in settings
    }
    if {"width", "height"} <= settings.keys():
        values["Size"] = f"{settings['width']}x{settings['height']}"
    for name in _prompts(settings):
        term = settings[name]
        values |= {
            f"{label} {name}": term[key]
            for label, key in (("CFG scale", "guidance_scale"), ("Weight", "weight"), ("Model", "model"))
            if key in term
        }
    return "\n".join([*lines, ", ".join(f"{label}: {_quoted(value)}" for label, value in values.items())])


def _quoted(value) -> str:
    """As the web UI does: in JSON's quotes where the bare text would break the list of values."""
    text = typeset.one_line(str(value))
    return json.dumps(text) if re.search('[,:"]', text) else text


def _to_json(content: dict, **options) -> str:
    """NaN and infinity, which JSON lacks, are refused."""
    return json.dumps(content, allow_nan=False, **options)


def _from_tag(path: Path, text: str | None) -> dict:
    try:
        content = json.loads(text or "")
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no settings; give a .png, .wav or .json file that its_jax wrote")
    return content


def _open_png(path: Path) -> tuple[Image.Image, str | None]:
    with _reading(path), Image.open(path, formats=["PNG"]) as image:
        image.load()
        return image, getattr(image, "text", {}).get(_PNG_KEY)


def _riff_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of the chunks laid end to end in `data`; the last may be cut off."""
    while len(data) >= 8:
        name, size = struct.unpack_from("<4sI", data)
        yield name, data[8 : 8 + size]
        data = data[8 + size + size % 2 :]


def _wav_comment(data: bytes) -> str | None:
    for name, body in _riff_chunks(data[12:]):
        if name == b"LIST" and body.startswith(b"INFO"):
            comment = dict(_riff_chunks(body[4:])).get(b"ICMT")
            return None if comment is None else comment.rstrip(b"\0").decode(errors="replace")
    return None


def _ffmpeg(*arguments: str) -> bytes:
    """What ffmpeg writes to its output."""
    try:
        executable = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise OSError("no ffmpeg is found; set IMAGEIO_FFMPEG_EXE to one") from error
    result = subprocess.run(
        [executable, "-v", "error", "-nostdin", "-y", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        reason = next(iter(said), f"exit status {result.returncode}")
        reason = re.sub(r"^\[.*?] ", "", reason)  # the address of the component that tells
        raise OSError(f"ffmpeg: {reason}")
    return result.stdout


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of missing and damaged files (Pillow: SyntaxError) become a UserError with path and reason."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        ValueError,
        SyntaxError,
        soundfile.LibsndfileError,
        Image.DecompressionBombError,
    ) as error:
        raise UserError(f"{path}: cannot read: {files.reason(error)}") from error
