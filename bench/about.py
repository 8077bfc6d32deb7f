"""Where, when and with what something was measured."""

import datetime
import importlib.metadata
import os
import platform
from typing import Any

from its_jax.runtime import hardware

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "numpy", "orbax-checkpoint", "safetensors")
PACKAGES += ("torch", "diffusers", "transformers")


def about() -> dict[str, Any]:
    """Machine, versions of Python and of the packages that are installed, and date."""
    versions = {package: _version(package) for package in PACKAGES}
    return {
        "machine": {"cpu": hardware.cpu_name(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | {name: of for name, of in versions.items() if of},
        "date": datetime.date.today().isoformat(),
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
