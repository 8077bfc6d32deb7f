"""Writes MP4 files with a playhead that follows the sound."""

import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from its_jax.media import metadata, text_layout
from its_jax.media.ffmpeg import ENCODERS, run_ffmpeg
from its_jax.media.images import to_pillow
from its_jax.media.sounds import plain_wav
from its_jax.storage import files
from its_jax.storage.gain import recorded_factor


def write_video(path: str | os.PathLike, *content: Any, **options: Any) -> None:
    """Writes the result of `video`, whose arguments these are. UserError: it cannot be written, or ffmpeg fails."""
    with files.explain_os_errors(path):
        data = video(*content, **options)
    files.write(path, data)


def video(
    image: np.ndarray,
    waveform: np.ndarray,
    sampling_rate: int,
    image_prompt: str,
    audio_prompt: str,
    fps: int = 30,
    settings: dict[str, Any] | None = None,
) -> bytes:
    """Encodes an MP4 video (H.264, yuv420p, AAC): the image between its prompts, under a playhead.

    The image spans the whole sound: at second t the playhead is at t / duration of its width from the left. The number
    of frames is duration * fps, rounded. The title tag holds the prompts, the comment tag the settings as JSON, and the
    description says that a model generated the video (`its_jax.media.metadata.SOFTWARE`).

    Args:
      image: `[h, w]` or `[h, w, 3]` in [0, 1].
      waveform: `[samples]` in [-1, 1] at `sampling_rate` Hz, at its raw scale.
      settings: `run.gain_db` in it is the gain of the sound, as in `its_jax.media.sounds.wav`.

    Raises:
      OSError: ffmpeg fails.
    """
    slide, (left, top, width, height) = text_layout.video_frame(to_pillow(image), image_prompt, audio_prompt)
    playhead = text_layout.playhead(height)
    duration = len(waveform) / sampling_rate
    num_frames = max(1, round(duration * fps))
    left -= playhead.width // 2
    # The stills are converted once, before the loop. Halved chroma (4:2:0) comes last, because it would make the
    # playhead move by two pixels at a time.
    to_yuv = "scale=out_color_matrix=bt709:out_range=tv"
    graph = (
        f"[0:v]{to_yuv},format=yuv444p,loop={num_frames - 1}:1,setpts=N/{fps}/TB[slide];"
        f"[1:v]{to_yuv},format=yuva444p[playhead];"
        f"[slide][playhead]overlay=x='{left}+floor({width}*t/{duration})':y={top}:format=yuv444,format=yuv420p,"
        "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709[video]"
    )
    title = " | ".join(map(metadata.one_line, (image_prompt, audio_prompt)))
    settings = settings or {}
    tags = {"title": title, "comment": files.to_json(settings), "description": metadata.SOFTWARE}
    tag_options = [part for name, text in tags.items() for part in ("-metadata", f"{name}={text}")]
    with tempfile.TemporaryDirectory() as folder:
        slide.save(f"{folder}/slide.png", compress_level=1)  # Prompts reach ffmpeg only as pixels.
        playhead.save(f"{folder}/playhead.png")
        pathlib.Path(folder, "sound.wav").write_bytes(plain_wav(waveform, sampling_rate, recorded_factor(settings)))
        run_ffmpeg("-framerate", f"{fps}", "-f", "png_pipe", "-i", f"file:{folder}/slide.png",
                "-f", "png_pipe", "-i", f"file:{folder}/playhead.png", "-i", f"file:{folder}/sound.wav",
                "-filter_complex", graph, "-map", "[video]", "-map", "2:a",
                *ENCODERS, "-preset", "veryfast", "-tune", "stillimage", "-crf", "18", "-b:a", "96k",
                "-movflags", "+faststart", *tag_options,
                "-f", "mp4", f"file:{folder}/video.mp4")  # fmt: skip
        return pathlib.Path(folder, "video.mp4").read_bytes()
