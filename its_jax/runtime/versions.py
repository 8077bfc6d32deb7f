"""Versions of installed packages."""

import importlib.metadata


def own_version() -> str:
    """Returns the installed version of its_jax, or 'not installed'."""
    try:
        return importlib.metadata.version("its_jax")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
