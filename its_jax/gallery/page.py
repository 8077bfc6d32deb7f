"""Writes the page: one HTML file that links to the samples' files or contains them."""

import html
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.storage import files

PAGE = "gallery.html"
EMBEDDED = "gallery_embedded.html"
MAX_EMBEDDED = 64 * 2**20  # bytes of images and audio in one file. Browsers and notebooks have trouble with more.
# Joined in this order, they are the page's only script.
_SCRIPTS = ("table.js", "stars.js", "player.js", "layout.js", "tiles.js", "detail.js", "export.js", "main.js")
_FRAME = '<div><iframe srcdoc="{page}" style="width: 100%; height: {height}px; border: 0"></iframe></div>'


def write(workdir: str | Path, embed: bool = False) -> Path:
    """Writes WORKDIR/gallery.html, which links to the samples' files, and returns its path.

    Args:
      embed: writes WORKDIR/gallery_embedded.html instead, which contains everything (about 200 samples of the default
        size).

    Raises:
      UserError: the folder does not exist or has no samples, they are more than `MAX_EMBEDDED`, or the page cannot be
        written.
    """
    workdir = files.to_path(workdir)
    path = workdir / (EMBEDDED if embed else PAGE)
    files.write(path, _page(workdir, embed).encode())
    return path


def show(workdir: str | Path, height: int = 800) -> Any:
    """Returns the page for the output of a notebook (Jupyter or Colab), with everything embedded.

    Args:
      height: of the frame, in pixels.

    Returns:
      An IPython.display.HTML.

    Raises:
      UserError: as `write`.
    """
    from IPython.display import HTML

    page = html.escape(_page(files.to_path(workdir), embed=True))
    return HTML(_FRAME.format(page=page, height=height))


def _page(workdir: Path, embed: bool) -> str:
    from its_jax.gallery import assets, table  # These take long to import, as NumPy does.
    from its_jax.storage import samples

    found = list(samples.open_samples(workdir).values())
    if not found:
        raise UserError(f"{workdir}: has no finished samples yet")
    data = table.build_table(found, assets.folder_name)
    data["workdir"] = files.absolute_path(workdir)
    data["embedded"] = assets.data_urls(found, MAX_EMBEDDED) if embed else {}
    assets.extract(found, workdir)
    script = "".join(map(_read_part, _SCRIPTS))
    return _fill(_read_part("page.html"), {"style": _read_part("page.css"), "data": _json(data), "script": script})


def _read_part(name: str) -> str:
    return importlib.resources.files("its_jax.gallery").joinpath("web", name).read_text(encoding="utf-8")


def _fill(text: str, parts: Mapping[str, str]) -> str:
    """Replaces each `<!--name-->` by the part of that name. No part contains the name of another."""
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    return text


def _json(data: dict[str, Any]) -> str:
    """Encodes JSON for a script element, which a `</script>` inside a text would end."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
