"""Rules that all image and audio files share: rounding to integers, and one error for files that cannot be read."""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
import soundfile
from PIL import Image

from its_jax.errors import UserError
from its_jax.storage import files

_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    SyntaxError,  # Pillow raises it for broken PNG files.
    soundfile.LibsndfileError,
    Image.DecompressionBombError,
)


def quantize(values: np.ndarray, low: int, high: int, scale: int) -> np.ndarray:
    """Returns `round(scale * values)`, ties to even, clipped to [low, high], as float32.

    Raises:
      ValueError: a value is not finite.
    """
    values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError("non-finite values cannot be written")
    return np.clip(np.rint(values * scale), low, high)


@contextlib.contextmanager
def explain_unreadable(path: str | os.PathLike) -> Iterator[None]:
    """Turns the errors of missing and damaged files into a UserError with the path and the reason."""
    try:
        yield
    except _UNREADABLE as error:
        raise UserError(f"{path}: cannot read: {files.describe(error)}") from error
