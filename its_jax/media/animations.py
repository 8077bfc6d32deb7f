"""Writes looping pictures with a moving playhead, for pages that cannot show a video."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from its_jax.errors import UserError
from its_jax.media import text_layout
from its_jax.media.images import to_pillow
from its_jax.storage import files

# Arguments of Pillow by suffix.
_ENCODERS: dict[str, dict[str, Any]] = {
    ".webp": dict(format="WEBP", quality=60, method=4),
    ".gif": dict(format="GIF", optimize=False),
}


def write_animation(
    path: str | Path,
    image: np.ndarray,
    duration: float,
    image_prompt: str,
    audio_prompt: str,
    *,
    width: int = 720,
    fps: int = 12,
) -> None:
    """Writes an image between its prompts under a playhead that crosses it in `duration` seconds, in a loop.

    Args:
      path: a .webp or .gif file.
      image: `[h, w]` or `[h, w, 3]` in [0, 1].
      width: of the animation, in pixels. fps: frames per second.

    Raises:
      UserError: the file has another suffix, or cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _ENCODERS:
        raise UserError(f"{path}: an animation is a file whose name ends in {' or '.join(_ENCODERS)}")
    frames = list(_frames(image, max(1, round(duration * fps)), image_prompt, audio_prompt, width))
    if suffix == ".gif":  # one palette without dithering, so that only what moves is stored of each frame
        palette = frames[0].quantize(method=Image.Quantize.MAXCOVERAGE)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first, *others = frames
    content = io.BytesIO()
    first.save(
        content, save_all=True, append_images=others, duration=1000 * duration / (1 + len(others)), loop=0,
        **_ENCODERS[suffix],
    )  # fmt: skip
    with files.explain_os_errors(path):
        files.write(path, content.getvalue())


def _frames(image, num_frames, image_prompt, audio_prompt, frame_width) -> Iterator[Image.Image]:
    slide, (left, top, width, height) = text_layout.video_frame(to_pillow(image), image_prompt, audio_prompt)
    playhead = text_layout.playhead(height)
    size = frame_width, round(slide.height * frame_width / slide.width)
    for i in range(num_frames):
        frame = slide.copy()
        frame.paste(playhead, (left - playhead.width // 2 + width * i // num_frames, top), playhead)
        yield frame.resize(size, Image.Resampling.LANCZOS)
