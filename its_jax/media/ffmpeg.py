"""Runs the ffmpeg program that imageio-ffmpeg ships."""

import re
import subprocess

import imageio_ffmpeg


def run_ffmpeg(*arguments: str) -> bytes:
    """Runs ffmpeg and returns its standard output. OSError: ffmpeg is missing or fails."""
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
        messages = result.stderr.decode(errors="replace").strip().splitlines()
        reason = next(iter(messages), f"exit status {result.returncode}")
        reason = re.sub(r"^\[.*?] ", "", reason)  # the address of the component that reports
        raise OSError(f"ffmpeg: {reason}")
    return result.stdout
