"""Chooses the files of a model among those of a folder or repository, in the layout of diffusers or of transformers."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Mapping

from its_jax.errors import UserError
from its_jax.models.registry import DIFFUSION_COMPONENTS

# If a component has several copies, the first of these is used: full precision and safetensors take precedence.
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "vocoder")
_KINDS = tuple(itertools.product(("", ".fp16"), (".safetensors", ".bin", ".pt"), _STEMS))  # variant, suffix, stem
# These are copied unchanged. `vocabulary.json` lists the words that a small text encoder of ours knows.
_COPIED = re.compile(
    r"tokenizer/[^/]+|(image_noising_)?scheduler/scheduler_config\.json|model_index\.json|vocabulary\.json"
)
_NOISING = "image_noising_scheduler/scheduler_config.json"
# In the layout of transformers, a model lies in the folder itself. The conversion has a folder for it, and another for
# its tokenizer.
_DUAL_ENCODER = "dual_encoder"
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files that make up a model, by name relative to its folder.

    Attributes:
      weights: component -> the file of its weights, or an index followed by its shards.
      plain: name in the conversion -> file that is copied: config, or file of tokenizer, scheduler or preprocessor.
    """

    weights: Mapping[str, tuple[str, ...]]
    plain: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Returns the names of all files, sorted."""
        return sorted((*itertools.chain(*self.weights.values()), *self.plain.values()))

    def without_shared_text_encoder(self) -> "Layout":
        """Leaves out the text encoder of IF's second stage, 19 GB, which equals that of the first stage."""
        if _NOISING not in self.plain:
            return self
        weights = {component: files for component, files in self.weights.items() if component != "text_encoder"}
        unused = "text_encoder/", "tokenizer/"
        return Layout(weights, {name: file for name, file in self.plain.items() if not name.startswith(unused)})


def find_layout(names: Collection[str], *, source: object) -> Layout:
    """Chooses the files of a model among `names`.

    Args:
      names: relative names of all files.
      source: how error messages call the model.

    Raises:
      UserError: `names` contain no component of a model, or one without config or weights.
    """
    components = [name for name in DIFFUSION_COMPONENTS if any(file.startswith(f"{name}/") for file in names)]
    if not components and "config.json" in names:
        return _dual_encoder_layout(names, source)
    if not components:
        raise UserError(
            f"{source}: {'not a model folder' if names else 'an empty folder'}; expected "
            f"{', '.join(DIFFUSION_COMPONENTS)} (each a folder with config.json and weights), tokenizer and scheduler; "
            "or, for a CLIP or CLAP, config.json, weights, tokenizer and preprocessor_config.json"
        )
    plain = {name: name for name in config_files(names, components, source=source)}
    weights = {component: _weight_files(f"{component}/", names) for component in components}
    for component, found in weights.items():
        if not found:
            raise UserError(f"{source}: {component}/ has no weights, such as {component}/{_example(component)}")
    return Layout(weights, plain)


def _dual_encoder_layout(names, source):
    weights = _weight_files("", names)
    for what, found in (
        ("weights, such as model.safetensors", weights),
        ("preprocessor_config.json", set(_PREPROCESSORS) & set(names)),
        ("tokenizer, such as tokenizer.json", {"tokenizer.json", "vocab.json"} & set(names)),
    ):
        if not found:
            raise UserError(f"{source}: has no {what}")
    plain = {f"{_DUAL_ENCODER}/{name}": name for name in ("config.json", *_PREPROCESSORS) if name in names}
    plain |= {f"tokenizer/{name}": name for name in _TOKENIZER if name in names}
    return Layout({_DUAL_ENCODER: weights}, plain)


def config_files(names: Collection[str], components: Collection[str], *, source: object) -> list[str]:
    """Returns the configs of these components among `names`, and the files of tokenizer and scheduler.

    Raises:
      UserError: a component has no config.
    """
    configs = [f"{component}/config.json" for component in components]
    for config in configs:
        if config not in names:
            raise UserError(f"{source}: {config} is missing")
    return sorted([*configs, *(name for name in names if _COPIED.fullmatch(name))])


def _weight_files(folder, names):
    """Returns the file of a component's weights, or their index and all of its shards, or nothing.

    Args:
      folder: of the component, with a slash at its end; "" is the folder of the model.
    """
    for variant, suffix, stem in _KINDS:
        whole = f"{folder}{stem}{variant}{suffix}"
        # Versions of diffusers and transformers differ in where they put the variant.
        indices = {f"{whole}.index.json", f"{folder}{stem}{suffix}.index{variant}.json"}
        if whole in names:
            return (whole,)
        if index := sorted(indices & set(names)):
            number = r"-\d{5}-of-\d{5}"
            v, start = re.escape(variant), re.escape(f"{folder}{stem}")
            shard = re.compile(f"{start}({v}{number}|{number}{v}){re.escape(suffix)}")
            return (index[0], *sorted(filter(shard.fullmatch, names)))
    return ()


def _example(component):
    examples = {"text_encoder": "model.safetensors", "vocoder": "vocoder.pt"}
    return examples.get(component, "diffusion_pytorch_model.safetensors")
