"""Reads what samples are compared with: a folder of images or audio, or statistics in a file."""

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

_NAMES = ("mu", "sigma")  # as in the files of pytorch-fid
_SAMPLE_FILES = ("spectrogram.png", *samples.AUDIO_FILES)  # the files of our samples that count


def read_reference(source: str, extract: Callable[[Path], np.ndarray]) -> Gaussian:
    """Reads the statistics in SOURCE.npz, or computes those of all files in a folder and its subfolders.

    Args:
      extract: returns the features of a file, `[n, d]`. A file for which it raises `UserError` is logged and left out.

    Raises:
      UserError: no such file or folder, or fewer than two usable files.
    """
    path = Path(source).expanduser()
    if path.suffix == ".npz":
        return _read_statistics(path)
    if not path.is_dir():
        raise UserError(f"{source}: no such folder; give one of images or audio, or statistics as FILE.npz")
    features, left_out = [], []
    for file in sorted(filter(_counts, path.rglob("*"))):
        try:
            features.append(extract(file))
        except UserError as error:
            left_out.append(str(error))
    if left_out:
        logging.warning("left out of the reference: %d files, the first: %s", len(left_out), left_out[0])
    if len(features) < 2:
        raise UserError(f"{source}: has {len(features)} files to compare with; a Frechet distance needs 2 or more")
    return Gaussian.fit(np.concatenate(features))


def _counts(path: Path) -> bool:
    """Returns whether a file is part of the reference: of our own samples, one file of each kind is."""
    is_sample = (path.parent / RECORD).exists()
    return path.is_file() and not path.name.startswith(".") and (not is_sample or path.name in _SAMPLE_FILES)


def write_statistics(path: Path, gaussian: Gaussian) -> None:
    """Writes a file that `read_reference` and pytorch-fid read. It appears whole.

    Raises:
      UserError: the file cannot be written.
    """
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(zip(_NAMES, (gaussian.mean, gaussian.covariance), strict=True))
    np.savez(buffer, **arrays)
    files.write(path, buffer.getvalue())


def _read_statistics(path: Path) -> Gaussian:
    try:
        with np.load(path) as arrays:
            mean, covariance = (np.asarray(arrays[name], np.float64) for name in _NAMES)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: must be an .npz with mu and sigma ({files.describe(error)})") from error
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2:
        raise UserError(f"{path}: mu and sigma must be [d] and [d, d], not {mean.shape} and {covariance.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path}: mu and sigma must be finite numbers")
    return Gaussian(mean, covariance)
