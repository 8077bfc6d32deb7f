"""Loads converted models: a folder becomes modules on devices, in the requested dtype."""

import concurrent.futures
import dataclasses
import json
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import tensorstore as ts
from flax import nnx
from jax.typing import DTypeLike

from its_jax.checkpoints.compatibility import check_compatibility
from its_jax.checkpoints.format import WEIGHTS, read_metadata
from its_jax.checkpoints.model import Model
from its_jax.checkpoints.processors import ClapFeatureExtractor, CLIPImageProcessor
from its_jax.checkpoints.reader import (
    AHEAD,
    READERS,
    cast_like,
    checkpoint_paths,
    empty_aligned,
    explain_damage,
    open_arrays,
    prefetch,
)
from its_jax.checkpoints.schedules import load_schedules
from its_jax.checkpoints.tokenizers import load_tokenizer
from its_jax.errors import UserError
from its_jax.models import registry, state_dict
from its_jax.models.clip import CLIPModel
from its_jax.runtime import hardware
from its_jax.storage.files import read_json


def abstract_model(folder: pathlib.Path, source: str, *, components: Sequence[str], dtype: DTypeLike) -> Model:
    """Builds a converted model with shapes in place of weights, so that errors appear before gigabytes are read.

    Args:
      folder: the converted model.
      source: how error messages call the model.
      components: among the keys of `registry.COMPONENTS`; each must be in the folder.
      dtype: of weights and activations.

    Raises:
      UserError: a file is missing or damaged, or components do not fit together.
    """
    metadata = read_metadata(folder, source)
    first = [path for component in components for path in checkpoint_paths(folder / component)[:AHEAD]]
    threading.Thread(target=prefetch, args=first, daemon=True).start()  # while Python builds the modules
    model = Model(
        source=source,
        folder=folder,
        identity=metadata["identity"],
        hashes={component: about["sha256"] for component, about in metadata["parts"].items()},
        vocabulary=_load_vocabulary(folder),
        **{component: _abstract_component(folder, component, dtype, source) for component in components},
    )
    schedules: dict[str, Any] = load_schedules(model)
    model = dataclasses.replace(model, **schedules, tokenizer=load_tokenizer(model), processor=_load_processor(model))
    check_compatibility(model)
    return model


def restore_weights(
    model: Model,
    *,
    sharding: jax.sharding.Sharding | Mapping[str, jax.sharding.Sharding] | None = None,
    share: Sequence[Model] = (),
) -> Model:
    """Restores the weights of a model made by `abstract_model`.

    Args:
      model: it is not changed.
      sharding: the sharding of all weights, usually replicated on the mesh, or component -> sharding. None is the
        first local device.
      share: models with weights of the same dtype. A component that equals one of theirs in tensors, config and
        sharding is the same module, so that it is in memory once.

    Raises:
      UserError: a tensor is missing, damaged or has another shape.
    """
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    modules = {name: getattr(model, name) for name in registry.COMPONENTS if getattr(model, name) is not None}
    shardings = sharding if isinstance(sharding, Mapping) else dict.fromkeys(modules, sharding)
    restored: dict[str, Any] = {
        component: _find_shared(model, component, module, shardings[component], share)
        or _restore_component(model, component, module, shardings[component])
        for component, module in modules.items()
    }
    return dataclasses.replace(model, **restored)


def _load_vocabulary(folder):
    path = folder / "vocabulary.json"
    if not path.exists():
        return None
    try:
        return frozenset(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: expected a JSON list of words ({error})") from error


def _abstract_component(folder, component, dtype, source):
    raw = read_json(folder / component / "config.json")
    return registry.abstract_module(component, raw, jnp.dtype(dtype), name=f"{source}: {component}")


def _load_processor(model):
    if model.dual_encoder is None:
        return None
    path = model.folder / "dual_encoder" / "preprocessor_config.json"
    if not path.exists():  # newer transformers write the settings of all processors into one file
        path = path.with_name("processor_config.json")
    raw = read_json(path)
    try:
        if isinstance(model.dual_encoder, CLIPModel):
            return CLIPImageProcessor.from_dict(raw.get("image_processor", raw))
        return ClapFeatureExtractor.from_dict(raw.get("feature_extractor", raw))
    except UserError as error:
        raise UserError(f"{model.source}: {error}") from error


def _find_shared(model, component, module, sharding, share):
    """Returns the module of another model that equals this one, or None."""
    for other in share:
        loaded = getattr(other, component)
        if loaded is None or other.hashes[component] != model.hashes[component] or loaded.config != module.config:
            continue
        if jax.tree.leaves(nnx.state(loaded, nnx.Param))[0].sharding == sharding:
            return loaded
    return None


def _restore_component(model, component, module, sharding):
    """Fills an abstract module from its checkpoints, a few at a time, so that little of it is in memory twice."""
    paths = checkpoint_paths(model.folder / component)  # `abstract_model` has prefetched the first of them
    with explain_damage(model.folder / component / WEIGHTS):
        checkpoints = [open_arrays(path) for path in paths]
    leaves = registry.named_parameters(module)
    expected = {name: state_dict.get_array(leaf) for name, (_, leaf) in leaves.items()}
    stored = {name: tuple(array.shape) for checkpoint in checkpoints for name, array in checkpoint.items()}
    _check_shapes(expected, stored, f"{model.source}: {component}")
    # The host copies a replicated array to one device; the devices copy it to each other.
    first = min(sharding.addressable_devices, key=lambda device: device.id)

    def read(number):
        prefetch(*paths[number + AHEAD : number + AHEAD + 1])
        arrays = {name: empty_aligned(stored[name], expected[name].dtype) for name in checkpoints[number]}
        with explain_damage(paths[number].parent):
            reading = [
                ts.array(arrays[name]).write(cast_like(array, arrays[name]))
                for name, array in checkpoints[number].items()
            ]
            for one in reading:
                one.result()
        placed = jax.device_put(jax.device_put(arrays, first), sharding)
        return jax.block_until_ready(placed)

    with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
        restored = {name: array for arrays in readers.map(read, range(len(paths))) for name, array in arrays.items()}
    hardware.release_memory()
    state = [(path, leaf.replace(restored[name])) for name, (path, leaf) in leaves.items()]
    return nnx.merge(nnx.graphdef(module), nnx.from_flat_state(state))


def _check_shapes(expected, stored, name):
    state_dict.check_names(expected, stored, name=name)
    for key, array in expected.items():
        if stored[key] != array.shape:
            shapes = f"has shape {list(stored[key])}, the config asks for {list(array.shape)}"
            raise UserError(f"{name}: tensor {key!r} {shapes}")
