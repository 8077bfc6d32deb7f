"""The flags of XLA that must be set before JAX starts its backends."""

import importlib.metadata
import os

# On CPUs, older versions of jaxlib multiply matrices by XNNPACK, which caches packed matrices by their address in
# memory and mistakes a later matrix at the same address for the cached one. (Found in 0.7.2, 0.8.0 and 0.8.1;
# tests/runtime/test_xla_flags.py shows it.)
_FIXED_IN = (0, 8, 2)
_XNNPACK = "xla_cpu_use_xnnpack"


def set_flags(jaxlib_version: str | None = None) -> None:
    """Adds to `XLA_FLAGS` what the installed jaxlib needs, and keeps what is set there already.

    It has no effect once JAX has started its backends.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _release(jaxlib_version or importlib.metadata.version("jaxlib")) < _FIXED_IN and _XNNPACK not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_XNNPACK}=false".strip()


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:3])
