"""Reads the settings that a sample's file holds."""

import os
import pathlib

from its_jax.errors import UserError
from its_jax.media.images import open_png
from its_jax.media.metadata import explain_unreadable, parse_tag
from its_jax.media.sounds import wav_comment
from its_jax.storage.files import read_json


def read_settings(path: str | os.PathLike) -> dict:
    """The settings in a .png, .wav or .json of this module. UserError: cannot read, or there are none."""
    suffix = pathlib.Path(path).suffix.lower()
    if suffix == ".json":
        return read_json(path)
    if suffix == ".png":
        return parse_tag(path, open_png(path)[1])
    if suffix == ".wav":
        with explain_unreadable(path):
            data = pathlib.Path(path).read_bytes()
        return parse_tag(path, wav_comment(data))
    raise UserError(f"{path}: settings are read from .png, .wav and .json files only")
