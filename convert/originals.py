"""Models before conversion: their files, wherever they lie, and their tensors under current names."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from convert import names, single_file, sources
from convert.hub import file_names
from convert.layouts import config_files, find_layout
from convert.lora import Lora, check_components, merged
from convert.tensors import Tensor, open_tensors
from its_jax.errors import UserError
from its_jax.models import registry, state_dict
from its_jax.storage.files import read_json

# Single files contain neither configs nor a tokenizer; those of this model are used.
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_LORAS = re.compile(r"(?P<model>.+?)(?P<loras>(?:\+[^+]+\.(?:safetensors|bin|pt)(?:@[^+@/]*)?)+)")


@dataclasses.dataclass(frozen=True)
class Original:
    """A model that is not converted yet.

    Attributes:
      name: the source as the user gave it.
      weights: component -> the file of its weights; or an index, then its shards; or the single file of all components.
      plain: name in the converted folder -> config, or file of tokenizer or scheduler.
      single: whether the weights are a single file with the names of Stable Diffusion 1.x.
      loras: the LoRAs that are merged into the weights.
    """

    name: str
    weights: Mapping[str, tuple[pathlib.Path, ...]]
    plain: Mapping[str, pathlib.Path]
    single: bool = False
    loras: Sequence[Lora] = ()

    @property
    def files(self) -> dict[str, pathlib.Path]:
        """Returns all files that determine the model, by names that do not depend on where they lie."""
        weights = {f"{component}/{path.name}": path for component, paths in self.weights.items() for path in paths}
        if self.single:
            weights = {path.suffix: path for path in itertools.chain(*self.weights.values())}
        loras = {f"lora {i} @ {lora.scale}": lora.path for i, lora in enumerate(self.loras)}
        return {**weights, **self.plain, **loras}

    def config(self, component: str) -> dict[str, Any]:
        """Reads the `config.json` of a component."""
        return read_json(self.plain[f"{component}/config.json"])

    def tensors(self, component: str) -> dict[str, Tensor]:
        """Opens the tensors of a component under their current names, with LoRAs merged, without reading them."""
        name = f"{self.name}: {component}"
        found = open_tensors(self.weights[component][0])
        if self.single:
            module = registry.abstract_module(component, self.config(component), jnp.float32, name=name)
            found = single_file.component_tensors(found, component, state_dict.torch_shapes(module))
        return merged(names.canonical(found, name=name), component, self.loras)


def locate(source: str) -> tuple[pathlib.Path, list[Lora]]:
    """Finds the folder or file of `MODEL`, or of `MODEL+LORA@SCALE` with any number of LoRAs, and the LoRAs.

    Raises:
      UserError: the model or a LoRA does not exist.
    """
    match = _LORAS.fullmatch(source)
    if match is None or pathlib.Path(source).expanduser().exists():
        return sources.find(source), []
    return sources.find(match["model"]), [Lora.parse(text) for text in match["loras"][1:].split("+")]


def gather(
    name: str,
    path: pathlib.Path,
    loras: Sequence[Lora] = (),
    *,
    config_from: str | None = None,
    hub: Any = None,
) -> Original:
    """Gathers the files of a model from a folder or a single file.

    Args:
      name: the source as the user gave it.
      path, loras: from `locate`.
      config_from: the folder or hub id whose configs, tokenizer and scheduler a single file uses; None is `SD15`.
      hub: see `convert.hub.download`.

    Raises:
      UserError: a file is missing, or of another kind.
    """
    if path.is_file():
        original = _gather_single_file(name, path, config_from, hub)
    elif config_from is not None:
        raise UserError(f"{name}: a folder, which has configs of its own; config_from is for single files")
    else:
        layout = find_layout(file_names(path), source=name)
        weights = {component: tuple(path / file for file in files) for component, files in layout.weights.items()}
        original = Original(name, weights, {new: path / file for new, file in layout.plain.items()})
    check_components(loras, original.weights, name=name)
    return dataclasses.replace(original, loras=tuple(loras))


def _gather_single_file(name, path, config_from, hub):
    components = single_file.find_components(open_tensors(path), name=name)
    folder = _find_configs(name, config_from, components, hub)
    plain = config_files(file_names(folder), components, source=folder)
    return Original(name, dict.fromkeys(components, (path,)), {file: folder / file for file in plain}, single=True)


def _find_configs(name, config_from, components, hub):
    try:
        return sources.find_configs(config_from or SD15, components, hub=hub)
    except UserError as error:
        if config_from is not None:
            raise
        raise UserError(
            f"{name}: a single file has no configs and no tokenizer, and those of Stable Diffusion 1.5 are not "
            f"available; convert it with --config_from=FOLDER, a model folder that has them ({error})"
        ) from error
