"""What samples are compared with: a folder of pictures or sounds, or the statistics of one in a file."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from its_jax import files
from its_jax.errors import UserError
from its_jax.metrics import Gaussian

_NAMES = ("mu", "sigma")  # as pytorch-fid writes them


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
    found = []
    for file in sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")):
        try:
            found.append(features_of_file(file))
        except UserError as error:
            logging.warning("left out of the reference: %s", error)
    if not found:
        raise UserError(f"{source}: there is nothing in it to compare with")
    return Gaussian.of(np.concatenate(found))


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
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: no statistics, an .npz of mu and sigma ({files.reason(error)})") from error
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2:
        raise UserError(f"{path}: mu and sigma must be [d] and [d, d], not {mean.shape} and {covariance.shape}")
    return Gaussian(mean, covariance)
