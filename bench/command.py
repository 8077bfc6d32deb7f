"""Shared by the commands of `bench/`: result files, temporary folders and flags that are lists of numbers."""

import contextlib
import importlib.metadata
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.runtime import cli, hardware
from its_jax.storage import files

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "numpy", "orbax-checkpoint", "safetensors")
PACKAGES += ("torch", "diffusers", "transformers")


def environment() -> dict[str, Any]:
    """Returns the machine with the date, and the versions of Python and of the installed packages."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"machine": hardware.describe(), "versions": versions}


def results_writer(out: str | None) -> Callable[[Mapping[str, Any]], None]:
    """Returns a function that writes results and `environment` to the JSON file of --out, or does nothing without one.

    Long runs call it after each measurement, because they may be interrupted. Raises UserError if the file cannot be
    written, before anything is measured.
    """
    if not out:
        return lambda results: None
    cli.check_out(Path(out))
    return lambda results: files.write_json(out, environment() | dict(results))


@contextlib.contextmanager
def scratch_folder(parent: str | None) -> Iterator[Path]:
    """Creates a folder inside `parent`, by default the system's for temporary files, and removes it at the end."""
    try:
        folder = tempfile.TemporaryDirectory(dir=parent)
    except OSError as error:
        raise UserError(f"--scratch={parent}: cannot create a folder there ({error.strerror})") from error
    with folder as name:
        yield Path(name).absolute()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the lowest and the highest value, in four digits."""
    figures = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def read_integers(flag: str, texts: Sequence[str], least: int) -> list[int]:
    """Converts the items of a list flag to integers; raises UserError for one below `least`."""
    if not all(text.isdecimal() and int(text) >= least for text in texts):
        raise UserError(f"{flag}={','.join(texts)}: must be integers of {least} or more, separated by commas")
    return list(map(int, texts))
