"""Downloads models from the Hugging Face hub, or finds those that were downloaded before."""

import functools
import logging
import pathlib
import re
from collections.abc import Callable, Collection
from typing import Any

from its_jax.errors import UserError

_warn_once = functools.cache(logging.getLogger(__name__).warning)

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def download(repository: str, choose: Callable[[Collection[str]], Collection[str]], *, hub: Any = None) -> pathlib.Path:
    """Downloads files of a repository into the cache of the hub, unless they are there.

    Args:
      repository: a hub id, `owner/name`.
      choose: returns the files to download among all files of the repository; raises `UserError` if it is not a model.
      hub: the module `huggingface_hub`, or a replacement with its `list_repo_files` and `snapshot_download`.

    Returns:
      The folder that contains the files.

    Raises:
      UserError: this is not a hub id, or the repository is not available, or `choose` raises it.
    """
    if not _HUB_ID.fullmatch(repository):
        raise UserError(f"{repository}: no such folder")
    if hub is None:
        import huggingface_hub as hub
    try:
        chosen = list(choose(hub.list_repo_files(repository)))
        return pathlib.Path(hub.snapshot_download(repository, allow_patterns=chosen))
    except UserError:
        raise
    except Exception as error:  # no network, no such model, no access: exceptions of several libraries
        return _find_downloaded(repository, choose, error, hub)


def _find_downloaded(repository, choose, reason, hub):
    from huggingface_hub import errors

    first_line = str(reason).strip().partition("\n")[0]
    if isinstance(reason, errors.GatedRepoError):
        first_line = (
            "its authors restrict access: accept its license on its page at the hub, and give a token as HF_TOKEN, in "
            "Colab among the secrets, or by `hf auth login`"
        )
    try:
        folder = pathlib.Path(hub.snapshot_download(repository, local_files_only=True))
        choose(file_names(folder))  # raises an error for an incomplete download
    except (errors.LocalEntryNotFoundError, ValueError, UserError) as error:
        message = f"{repository}: neither a folder nor available on the Hugging Face hub ({first_line})"
        raise UserError(message) from error
    _warn_once("%s: using an earlier download, because the hub does not answer (%s)", repository, first_line)
    return folder


def file_names(folder: pathlib.Path) -> list[str]:
    """Returns the relative names of all files in a folder and below, with forward slashes."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
