"""Finds models: a folder in the layout of diffusers or transformers, a repository on the hub, or a single file."""

import pathlib
from collections.abc import Collection
from typing import Any

from convert.hub import download
from convert.layouts import config_files, find_layout
from its_jax.errors import UserError
from its_jax.storage.files import explain_os_errors

SINGLE_FILES = (".safetensors", ".ckpt")


def find(source: str, *, hub: Any = None) -> pathlib.Path:
    """Returns the folder or file of a model. The files of a model on the hub are downloaded into the cache of the hub.

    Args:
      source: a folder, a single file or a hub id.
      hub: see `convert.hub.download`.

    Raises:
      UserError: this is neither a folder nor a single file nor a model on the hub.
    """
    path = pathlib.Path(source).expanduser()
    with explain_os_errors(path, "read"):
        if path.is_file() and path.suffix not in SINGLE_FILES:
            expected = " or ".join(SINGLE_FILES)
            raise UserError(f"{source}: a file; expected a model folder or a hub id, or a single file {expected}")
        if path.exists():
            return path

    def choose(names):
        return find_layout(names, source=source).without_shared_text_encoder().names

    return download(source, choose, hub=hub)


def find_configs(source: str, components: Collection[str], *, hub: Any = None) -> pathlib.Path:
    """Returns a folder with the configs of these components, tokenizer and scheduler; no weights are downloaded.

    Args:
      source: a folder or a hub id.
      hub: see `convert.hub.download`.

    Raises:
      UserError: this is neither a folder nor a model on the hub.
    """
    folder = pathlib.Path(source).expanduser()
    if folder.is_dir():
        return folder
    return download(source, lambda names: config_files(names, components, source=source), hub=hub)
