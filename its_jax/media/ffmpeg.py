"""Runs ffmpeg: the one that IMAGEIO_FFMPEG_EXE names, else the system's, else the one that imageio-ffmpeg ships."""

import functools
import logging
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

ENCODERS = "-c:v", "libx264", "-c:a", "aac"  # of the videos that are written


def run_ffmpeg(*arguments: str) -> bytes:
    """Runs ffmpeg and returns its standard output. OSError: ffmpeg is missing or fails."""
    return _run(find_ffmpeg(), *arguments)


def find_ffmpeg() -> str:
    """Returns the ffmpeg program to run.

    The system's, found in PATH, must be able to encode videos. This is tried once in each process.

    Raises:
      OSError: no ffmpeg is found.
    """
    system = None if "IMAGEIO_FFMPEG_EXE" in os.environ else shutil.which("ffmpeg")
    if system and _encodes_videos(system):
        return system
    try:
        import imageio_ffmpeg  # Systems with an ffmpeg of their own do without it.

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise OSError("no ffmpeg is found; set IMAGEIO_FFMPEG_EXE to one") from error


@functools.cache
def _encodes_videos(executable: str) -> bool:
    """Returns whether a video can be encoded, and logs the reason if not.

    Some systems ship a build without these encoders, and some do not let ffmpeg read the temporary folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "frame").write_bytes(bytes(16 * 16 * 3))
        pathlib.Path(folder, "sound").write_bytes(bytes(2 * 1600))
        try:
            _run(executable, "-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", "16x16",
                 "-i", f"file:{folder}/frame", "-f", "s16le", "-ar", "16000", "-i", f"file:{folder}/sound",
                 "-vf", "format=yuv420p,setparams=colorspace=bt709", *ENCODERS,
                 "-f", "mp4", f"file:{folder}/video.mp4")  # fmt: skip
        except OSError as error:
            logging.warning("%s cannot encode videos (%s); using the one of imageio-ffmpeg", executable, error)
            return False
        return True


def _run(executable: str, *arguments: str) -> bytes:
    result = subprocess.run(
        [executable, "-v", "error", "-nostdin", "-y", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if result.returncode:
        messages = result.stderr.decode(errors="replace").strip().splitlines()
        reason = next(iter(messages), f"exit status {result.returncode}")
        reason = re.sub(r"^\[.*?] ", "", reason)  # the address of the component that reports
        raise OSError(f"ffmpeg: {reason}")
    return result.stdout
