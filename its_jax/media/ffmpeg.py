"""Runs the ffmpeg program that imageio-ffmpeg ships."""

import re
import subprocess

import imageio_ffmpeg


def run_ffmpeg(*arguments: str) -> bytes:
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
