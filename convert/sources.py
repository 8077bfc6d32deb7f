"""Where models come from: a folder in diffusers' layout, or one on the Hugging Face hub."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import pathlib
import re
from collections.abc import Collection

from its_jax.errors import UserError
from its_jax.parts import PARTS

_warn_once = functools.cache(logging.getLogger(__name__).warning)

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

# Of a part's several copies, the first of these is used: full precision and safetensors before the rest.
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "vocoder")
_WEIGHT_NAMES = tuple(
    f"{stem}{variant}{suffix}"
    for variant, suffix, stem in itertools.product(("", ".fp16"), (".safetensors", ".bin", ".pt"), _STEMS)
)
# Copied as they are. `vocabulary.json` lists the words that a small text encoder of ours knows.
_PLAIN = re.compile(r"tokenizer/[^/]+|scheduler/scheduler_config\.json|model_index\.json|vocabulary\.json")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of a model folder that matter, by name relative to it.

    Attributes:
      weights: part -> file of its weights.
      plain: configs, tokenizer and scheduler files.
    """

    weights: dict[str, str]
    plain: tuple[str, ...]

    @property
    def names(self):
        return sorted((*self.weights.values(), *self.plain))


def layout(names: Collection[str], *, source) -> Layout:
    """Chooses the files of a model among `names`.

    Raises:
      UserError: there is no part of a model, or one without config or weights.
    """
    parts = [part for part in PARTS if any(name.startswith(f"{part}/") for name in names)]
    if not parts:
        raise UserError(
            f"{source}: {'not a model folder' if names else 'an empty folder'}; expected {', '.join(PARTS)} "
            "(each a folder with config.json and weights), tokenizer and scheduler"
        )
    weights = {}
    for part in parts:
        if f"{part}/config.json" not in names:
            raise UserError(f"{source}: {part}/config.json is missing")
        found = [f"{part}/{name}" for name in _WEIGHT_NAMES if f"{part}/{name}" in names]
        if not found:
            raise UserError(f"{source}: {part}/ has no weights, such as {part}/{_example(part)}")
        weights[part] = found[0]
    plain = [f"{part}/config.json" for part in parts] + [name for name in names if _PLAIN.fullmatch(name)]
    return Layout(weights, tuple(sorted(plain)))


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
    """The folder of a source; one on the hub is downloaded, what matters of it, into the hub's own cache.

    Raises:
      UserError: there is neither such a folder nor such a model on the hub.
    """
    folder = pathlib.Path(source).expanduser()
    with reading(folder):
        if folder.is_dir():
            return folder
        if folder.exists():
            raise UserError(f"{source}: a file; expected a model folder or a hub id")
    if not _HUB_ID.fullmatch(source):
        raise UserError(f"{source}: no such folder")
    return _download(source)


def _download(repository):
    import huggingface_hub

    try:
        wanted = layout(huggingface_hub.list_repo_files(repository), source=repository).names
        return pathlib.Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted))
    except UserError:
        raise
    except Exception as error:  # no network, no such model, no access: of several libraries' classes
        return _downloaded_before(repository, error)


def _downloaded_before(repository, reason):
    import huggingface_hub

    first_line = str(reason).strip().partition("\n")[0]
    try:
        folder = pathlib.Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
        layout(file_names(folder), source=repository)  # a download that broke off is no model
    except (huggingface_hub.errors.LocalEntryNotFoundError, ValueError, UserError) as error:
        raise UserError(f"{repository}: no such folder, nor to be had from the hub ({first_line})") from error
    _warn_once("%s: taken as downloaded before, for the hub does not answer (%s)", repository, first_line)
    return folder
