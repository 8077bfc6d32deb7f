"""The page of pairs: one HTML file that any browser opens from the disk."""

import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any


def html(pairs: Sequence[Mapping[str, Any]], page_id: str) -> str:
    """Returns the page.

    Args:
      pairs: each has `questions` and, for its two `sides`, the names of their files.
      page_id: see `page_id`.
    """
    # The script is inserted first, because the data contain text of the user.
    page = _read_part("page.html").replace("@script@", _read_part("page.js")).replace("@name@", page_id)
    return page.replace("@data@", json.dumps(pairs).replace("<", "\\u003c"))


def page_id(key: Sequence[Any]) -> str:
    """Returns the id of a page by its key. Browsers keep answers under it, and files of answers contain it."""
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]


def _read_part(name: str) -> str:
    return importlib.resources.files(__package__).joinpath("web", name).read_text(encoding="utf-8")
