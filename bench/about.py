"""Where, when and with what something was measured."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "orbax-checkpoint", "safetensors", "torch", "diffusers", "transformers")


def about() -> dict[str, Any]:
    """Machine, versions of Python and packages, and date."""
    return {
        "machine": {"cpu": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES},
        "date": datetime.date.today().isoformat(),
    }


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
