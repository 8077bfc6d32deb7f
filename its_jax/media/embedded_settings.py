"""Reads the settings that a sample's file holds."""

import os
import pathlib
from typing import Any

from its_jax.errors import UserError
from its_jax.media import images, sounds
from its_jax.media.codec import explain_unreadable
from its_jax.media.metadata import parse_settings
from its_jax.storage.files import read_json


def read_settings(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the settings in a .png, .wav or .json file of a sample.

    Raises:
      UserError: the file cannot be read, is of another kind, or holds no settings.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix == ".json":
        return read_json(path)
    if suffix == ".png":
        return parse_settings(path, images.open_png(path)[1])
    if suffix == ".wav":
        with explain_unreadable(path):
            data = pathlib.Path(path).read_bytes()
        return parse_settings(path, sounds.wav_comment(data))
    raise UserError(f"{path}: settings are read from .png, .wav and .json files only")
