"""The page of pairs: one HTML file that any browser opens from the disk."""

import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any


def html(pairs: Sequence[Mapping[str, Any]], name: str) -> str:
    """Of pairs, each with its `questions` and the files of its two `sides`."""
    # The script first: what follows is the user's text.
    page = _part("page.html").replace("@script@", _part("page.js")).replace("@name@", name)
    return page.replace("@data@", json.dumps(pairs).replace("<", "\\u003c"))


def name(key: Sequence[Any]) -> str:
    """Of a page, by whose samples it shows: browsers keep answers by it, and files of answers hold it."""
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]


def _part(name):
    return importlib.resources.files(__package__).joinpath("web", name).read_text(encoding="utf-8")
