"""The record of a sample: everything that is needed to generate it again."""

import hashlib
import importlib.metadata

import jax

from its_jax.settings.ids import sample_id

_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def sample_record(settings, sample, sampler, video, scorers):
    """Returns everything that is needed to generate the sample again."""
    models = {term: model.identity for term, model in sampler.models.items()}
    models |= {scorer.name: scorer.identity for scorer in scorers if hasattr(scorer, "identity")}
    run = {"batch_size": sampler.batch_size, "position": sample.position, "video": video}
    run["devices_per_sample"] = sampler.devices_per_sample
    run |= machine() | {"latents_sha256": _digest(sample.latents)}
    return settings.to_dict() | {"id": sample_id(settings), "run": run, "models": models, "versions": versions()}


def _digest(latents):
    digest = hashlib.sha256()
    for array in jax.tree.leaves(latents):
        digest.update(array.tobytes())
    return digest.hexdigest()


def machine():
    """What of the machine decides the bits of a sample."""
    return {"platform": jax.default_backend(), "devices": jax.local_device_count()}


def versions():
    """Package -> version, of those that decide the bits of a sample."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES} | {"its_jax": _own_version()}


def _own_version():
    try:
        return importlib.metadata.version("its_jax")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
