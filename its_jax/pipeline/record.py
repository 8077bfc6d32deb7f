"""The record of a sample: everything that is needed to generate it again."""

import hashlib
import importlib.metadata
from typing import Any

import jax

from its_jax.runtime.versions import own_version

_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def run_record(
    latents: Any,
    *,
    batch_size: int,
    batch_index: int,
    devices_per_sample: int,
    video: bool,
    loudness: float | None,
    gain_db: float,
) -> dict[str, Any]:
    """Returns the part of a record that says how the sample was generated, and at which gain its audio was written.

    Without a loudness, it has no gain either, as records of older versions, whose audio has its raw scale.
    """
    run = {"batch_size": batch_size, "position": batch_index, "video": video, "devices_per_sample": devices_per_sample}
    scale = {} if loudness is None else {"loudness": loudness, "gain_db": gain_db}
    return run | scale | machine() | {"latents_sha256": latents_digest(latents)}


def latents_digest(latents: Any) -> str:
    """Returns the SHA-256 of the latents' bytes."""
    digest = hashlib.sha256()
    for array in jax.tree.leaves(latents):
        digest.update(array.tobytes())
    return digest.hexdigest()


def machine() -> dict[str, Any]:
    """Returns the machine properties that affect the exact result."""
    return {"platform": jax.default_backend(), "devices": jax.local_device_count()}


def versions() -> dict[str, str]:
    """Returns the versions of the packages that affect the exact result."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES} | {"its_jax": own_version()}
