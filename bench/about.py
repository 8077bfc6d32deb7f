"""Where, when and with what something was measured."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "numpy", "orbax-checkpoint", "safetensors")
PACKAGES += ("torch", "diffusers", "transformers")


def about() -> dict[str, Any]:
    """Machine, versions of Python and of the packages that are installed, and date."""
    versions = {package: _version(package) for package in PACKAGES}
    return {
        "machine": {"cpu": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | {name: of for name, of in versions.items() if of},
        "date": datetime.date.today().isoformat(),
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
