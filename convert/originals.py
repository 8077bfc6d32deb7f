"""What is converted: the files of a model, wherever they lie, and their tensors under today's names."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from convert import names, single_file, sources
from convert.lora import Lora, check_parts, merged
from convert.tensors import Tensor, open_tensors
from its_jax.errors import UserError
from its_jax.models import registry, state_dict
from its_jax.storage.files import read_json

# Single files hold neither configs nor a tokenizer: their model's are taken.
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_LORAS = re.compile(r"(?P<model>.+?)(?P<loras>(?:\+[^+]+\.(?:safetensors|bin|pt)(?:@[^+@/]*)?)+)")


@dataclasses.dataclass(frozen=True)
class Original:
    """A model that is not converted yet.

    Attributes:
      name: as the user gave it.
      weights: part -> file of its weights; or index, then shards; or the single file of all parts.
      plain: name in the converted folder -> config, or file of tokenizer or scheduler.
      single: whether the weights are a single file in Stable Diffusion 1.x's own naming.
      loras: merged into the weights.
    """

    name: str
    weights: Mapping[str, tuple[pathlib.Path, ...]]
    plain: Mapping[str, pathlib.Path]
    single: bool = False
    loras: Sequence[Lora] = ()

    @property
    def files(self) -> dict[str, pathlib.Path]:
        """A name, independent of where the model lies -> file, of all that decide what the model is."""
        weights = {f"{part}/{path.name}": path for part, paths in self.weights.items() for path in paths}
        if self.single:
            weights = {path.suffix: path for path in itertools.chain(*self.weights.values())}
        loras = {f"lora {i} @ {lora.scale}": lora.path for i, lora in enumerate(self.loras)}
        return {**weights, **self.plain, **loras}

    def config(self, part: str) -> dict:
        return read_json(self.plain[f"{part}/config.json"])

    def tensors(self, part: str) -> dict[str, Tensor]:
        """Lazily: today's name of each tensor of a part -> Tensor, LoRAs included."""
        found = open_tensors(self.weights[part][0])
        if self.single:
            module = registry.abstract_module(part, self.config(part), jnp.float32, name=f"{self.name}: {part}")
            found = single_file.of_part(found, part, state_dict.torch_shapes(module))
        return merged(names.canonical(found, name=f"{self.name}: {part}"), part, self.loras)


def locate(source: str) -> tuple[pathlib.Path, list[Lora]]:
    """`MODEL`, or `MODEL+LORA@SCALE` with any number of LoRAs -> the model's folder or file, and the LoRAs.

    Raises:
      UserError: there is no such model or LoRA.
    """
    match = _LORAS.fullmatch(source)
    if match is None or pathlib.Path(source).expanduser().exists():
        return sources.find(source), []
    return sources.find(match["model"]), [Lora.parse(text) for text in match["loras"][1:].split("+")]


def gather(name: str, path: pathlib.Path, loras: Sequence[Lora] = (), *, config_from: str | None = None) -> Original:
    """The model in a folder in diffusers' layout, or in a single file.

    Args:
      name: as the user gave it. path, loras: from `locate`.
      config_from: the folder or hub id from which a single file gets configs, tokenizer and scheduler.

    Raises:
      UserError: something is missing, or of another kind.
    """
    if path.is_file():
        original = _of_file(name, path, config_from)
    elif config_from is not None:
        raise UserError(f"{name}: a folder, which has configs of its own; config_from is for single files")
    else:
        layout = sources.layout(sources.file_names(path), source=name)
        weights = {part: tuple(path / file for file in files) for part, files in layout.weights.items()}
        original = Original(name, weights, {file: path / name for file, name in layout.plain.items()})
    check_parts(loras, original.weights, name=name)
    return dataclasses.replace(original, loras=tuple(loras))


def _of_file(name, path, config_from):
    there = single_file.parts_in(open_tensors(path), name=name)
    folder = _configs(name, config_from, there)
    plain = sources.configs(sources.file_names(folder), there, source=folder)
    return Original(name, dict.fromkeys(there, (path,)), {file: folder / file for file in plain}, single=True)


def _configs(name, config_from, parts):
    try:
        return sources.find_configs(config_from or SD15, parts)
    except UserError as error:
        if config_from is not None:
            raise
        raise UserError(
            f"{name}: a single file has no configs and no tokenizer, and those of Stable Diffusion 1.5 cannot be had; "
            f"convert it with --config_from=FOLDER, a model folder that has them ({error})"
        ) from error
