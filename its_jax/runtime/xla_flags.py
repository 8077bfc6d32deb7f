"""What XLA is told before it starts."""

import importlib.metadata
import os

# On CPUs, jaxlib before this has XNNPACK multiply matrices, which keeps the right one by its address in memory, packed:
# a later one that lies there is taken for it. (Found in 0.7.2, 0.8.0 and 0.8.1; tests/test_xla_flags.py shows it.)
_MENDED = (0, 8, 2)
_WITHOUT_XNNPACK = "xla_cpu_use_xnnpack"


def set_flags() -> None:
    """Adds to `XLA_FLAGS`, where the installed jaxlib asks for it; what is set there already stays.

    It has no effect once JAX has started its backends.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _version() < _MENDED and _WITHOUT_XNNPACK not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_WITHOUT_XNNPACK}=false".strip()


def _version():
    release = importlib.metadata.version("jaxlib").split(".")[:3]
    return tuple(int(part) if part.isdecimal() else 0 for part in release)
