"""Where models come from: a folder in diffusers' or transformers' layout, one on the Hugging Face hub, or a file."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import pathlib
import re
from collections.abc import Collection, Mapping

from its_jax.errors import UserError
from its_jax.models.registry import DIFFUSION_COMPONENTS

_warn_once = functools.cache(logging.getLogger(__name__).warning)

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

SINGLE_FILES = (".safetensors", ".ckpt")

# Of a part's several copies, the first of these is used: full precision and safetensors before the rest.
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "vocoder")
_KINDS = tuple(itertools.product(("", ".fp16"), (".safetensors", ".bin", ".pt"), _STEMS))  # variant, suffix, stem
# Copied as they are. `vocabulary.json` lists the words that a small text encoder of ours knows.
_PLAIN = re.compile(
    r"tokenizer/[^/]+|(image_noising_)?scheduler/scheduler_config\.json|model_index\.json|vocabulary\.json"
)
_NOISING = "image_noising_scheduler/scheduler_config.json"
# transformers' layout: one model without a folder of its own. Its tokenizer gets one.
_ALONE = "dual_encoder"
_TOKENIZER: tuple[str, ...] = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)
_TOKENIZER += ("added_tokens.json",)
_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of a model folder that matter, by name relative to it.

    Attributes:
      weights: part -> file of its weights; or index, then shards.
      plain: name in a conversion -> config, or file of tokenizer, scheduler or preprocessor.
    """

    weights: Mapping[str, tuple[str, ...]]
    plain: Mapping[str, str]

    @property
    def names(self):
        return sorted((*itertools.chain(*self.weights.values()), *self.plain.values()))


def layout(names: Collection[str], *, source) -> Layout:
    """Chooses the files of a model among `names`.

    Raises:
      UserError: there is no part of a model, or one without config or weights.
    """
    parts = [part for part in DIFFUSION_COMPONENTS if any(name.startswith(f"{part}/") for name in names)]
    if not parts and "config.json" in names:
        return _alone(names, source)
    if not parts:
        raise UserError(
            f"{source}: {'not a model folder' if names else 'an empty folder'}; expected {', '.join(DIFFUSION_COMPONENTS)} "
            "(each a folder with config.json and weights), tokenizer and scheduler; or, of a CLIP or CLAP, "
            "config.json, weights, tokenizer and preprocessor_config.json"
        )
    plain = {name: name for name in configs(names, parts, source=source)}
    weights = {part: _weights(f"{part}/", names) for part in parts}
    for part, found in weights.items():
        if not found:
            raise UserError(f"{source}: {part}/ has no weights, such as {part}/{_example(part)}")
    return Layout(weights, plain)


def _alone(names, source):
    """The layout of one model of transformers'."""
    weights = _weights("", names)
    for what, found in (
        ("weights, such as model.safetensors", weights),
        ("preprocessor_config.json", set(_PREPROCESSORS) & set(names)),
        ("tokenizer, such as tokenizer.json", {"tokenizer.json", "vocab.json"} & set(names)),
    ):
        if not found:
            raise UserError(f"{source}: has no {what}")
    plain = {f"{_ALONE}/{name}": name for name in ("config.json", *_PREPROCESSORS) if name in names}
    plain |= {f"tokenizer/{name}": name for name in _TOKENIZER if name in names}
    return Layout({_ALONE: weights}, plain)


def configs(names: Collection[str], parts: Collection[str], *, source) -> tuple[str, ...]:
    """The configs of these parts among `names`, and the files of tokenizer and scheduler.

    Raises:
      UserError: a part has no config.
    """
    for part in parts:
        if f"{part}/config.json" not in names:
            raise UserError(f"{source}: {part}/config.json is missing")
    return tuple(
        sorted([*(f"{part}/config.json" for part in parts), *(name for name in names if _PLAIN.fullmatch(name))])
    )


def _weights(folder, names):
    """The file of a part's weights, or their index and all of its shards; empty where there are none.

    Args:
      folder: of the part, with a slash at its end; "" is the model's own.
    """
    for variant, suffix, stem in _KINDS:
        whole = f"{folder}{stem}{variant}{suffix}"
        # Libraries of several ages put the variant before or after what they add to the name.
        indices = {f"{whole}.index.json", f"{folder}{stem}{suffix}.index{variant}.json"}
        if whole in names:
            return (whole,)
        if index := sorted(indices & set(names)):
            number = r"-\d{5}-of-\d{5}"
            v, start = re.escape(variant), re.escape(f"{folder}{stem}")
            shard = re.compile(f"{start}({v}{number}|{number}{v}){re.escape(suffix)}")
            return (index[0], *sorted(filter(shard.fullmatch, names)))
    return ()


def _example(part):
    return {"text_encoder": "model.safetensors", "vocoder": "vocoder.pt"}.get(
        part, "diffusion_pytorch_model.safetensors"
    )


def file_names(folder):
    """All files in a folder and below, by relative name with forward slashes."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


@contextlib.contextmanager
def reading(path):
    """An `OSError` becomes a `UserError` that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error


def find(source: str) -> pathlib.Path:
    """The folder of a source, or its file; one on the hub is downloaded, what matters of it, into the hub's cache.

    Raises:
      UserError: there is neither such a folder or file nor such a model on the hub.
    """
    path = pathlib.Path(source).expanduser()
    with reading(path):
        if path.is_file() and path.suffix not in SINGLE_FILES:
            expected = " or ".join(SINGLE_FILES)
            raise UserError(f"{source}: a file; expected a model folder or a hub id, or a single file {expected}")
        if path.exists():
            return path
    return _download(source, lambda names: _without_second_texts(layout(names, source=source)).names)


def _without_second_texts(found):
    """Of IF's second stage the text encoder, 19 GB, is that of the first once more."""
    if _NOISING not in found.plain:
        return found
    weights = {part: files for part, files in found.weights.items() if part != "text_encoder"}
    plain = {name: file for name, file in found.plain.items() if not name.startswith(("text_encoder/", "tokenizer/"))}
    return Layout(weights, plain)


def find_configs(source: str, parts: Collection[str]) -> pathlib.Path:
    """A folder with the configs of these parts, tokenizer and scheduler; of one on the hub no weights are taken.

    Raises:
      UserError: there is no such folder, nor such a model on the hub.
    """
    folder = pathlib.Path(source).expanduser()
    if folder.is_dir():
        return folder
    return _download(source, lambda names: configs(names, parts, source=source))


def _download(repository, choose):
    import huggingface_hub

    if not _HUB_ID.fullmatch(repository):
        raise UserError(f"{repository}: no such folder")
    try:
        wanted = list(choose(huggingface_hub.list_repo_files(repository)))
        return pathlib.Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted))
    except UserError:
        raise
    except Exception as error:  # no network, no such model, no access: of several libraries' classes
        return _downloaded_before(repository, choose, error)


def _downloaded_before(repository, choose, reason):
    import huggingface_hub

    first_line = str(reason).strip().partition("\n")[0]
    if isinstance(reason, huggingface_hub.errors.GatedRepoError):
        first_line = (
            "its authors ask who takes it: accept its licence on its page at the hub, and give a token as HF_TOKEN, in "
            "Colab among the secrets, or by `hf auth login`"
        )
    try:
        folder = pathlib.Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
        choose(file_names(folder))  # a download that broke off is no model
    except (huggingface_hub.errors.LocalEntryNotFoundError, ValueError, UserError) as error:
        raise UserError(f"{repository}: no such folder, nor to be had from the hub ({first_line})") from error
    _warn_once("%s: taken as downloaded before, for the hub does not answer (%s)", repository, first_line)
    return folder
