"""What samples are compared with: a folder of pictures or sounds, or the statistics of one in a file."""

import io
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from its_jax.errors import UserError
from its_jax.scoring.metrics import Gaussian
from its_jax.settings.records import RECORD
from its_jax.storage import files, samples

_NAMES = ("mu", "sigma")  # as pytorch-fid writes them
_OF_A_SAMPLE = ("spectrogram.png", *samples.AUDIO_FILES)


def gaussian(source: str, features_of_file: Callable[[Path], np.ndarray]) -> Gaussian:
    """The statistics in SOURCE.npz, or of all files in a folder and below it.

    Args:
      features_of_file: `[n, d]`; `UserError` for a file that is left out, and told of.

    Raises:
      UserError: there is no such file or folder, or too little in it.
    """
    path = Path(source).expanduser()
    if path.suffix == ".npz":
        return _read(path)
    if not path.is_dir():
        raise UserError(f"{source}: no such folder; give one of pictures or sounds, or statistics as FILE.npz")
    found, left_out = [], []
    for file in sorted(filter(_counts, path.rglob("*"))):
        try:
            found.append(features_of_file(file))
        except UserError as error:
            left_out.append(str(error))
    if left_out:
        logging.warning("left out of the reference: %d files, the first: %s", len(left_out), left_out[0])
    if len(found) < 2:
        there = f"a Frechet distance of {len(found)} files: there must be 2 or more" if found else "there is nothing"
        raise UserError(f"{source}: {there} in it to compare with")
    return Gaussian.fit(np.concatenate(found))


def _counts(path):
    """Of a sample of ours, one file of each kind."""
    is_ours = (path.parent / RECORD).exists()
    return path.is_file() and not path.name.startswith(".") and (not is_ours or path.name in _OF_A_SAMPLE)


def write(path: Path, of: Gaussian) -> None:
    """To a file that `gaussian` and pytorch-fid read; it appears whole. UserError: cannot write."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(zip(_NAMES, (of.mean, of.covariance), strict=True))
    np.savez(buffer, **arrays)
    files.write(path, buffer.getvalue())


def _read(path):
    try:
        with np.load(path) as arrays:
            mean, covariance = (np.asarray(arrays[name], np.float64) for name in _NAMES)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: no statistics, an .npz of mu and sigma ({files.describe(error)})") from error
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2:
        raise UserError(f"{path}: mu and sigma must be [d] and [d, d], not {mean.shape} and {covariance.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path}: mu and sigma must be finite numbers")
    return Gaussian(mean, covariance)
