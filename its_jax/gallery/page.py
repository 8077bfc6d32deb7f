"""Writes the page: one HTML file that links to the samples' files or contains them."""

import html
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from its_jax.errors import UserError
from its_jax.storage import files

if TYPE_CHECKING:
    from its_jax.storage.samples import Sample

PAGE = "gallery.html"
EMBEDDED = "gallery_embedded.html"
MAX_EMBEDDED = 64 * 2**20  # bytes of images and audio in one file. Browsers have trouble with more.
MAX_SHOWN = 15 * 10**6  # bytes in the output of a notebook, which is saved with it; notebooks have trouble with more
# Joined in this order, they are the page's only script.
_SCRIPTS = ("table.js", "stars.js", "player.js", "layout.js", "tiles.js", "detail.js", "export.js", "main.js")
_FRAME = '<div>{note}<iframe srcdoc="{page}" style="width: 100%; height: {height}px; border: 0"></iframe></div>'


def write(workdir: str | Path, embed: bool = False, max_bytes: int = MAX_EMBEDDED) -> Path:
    """Writes WORKDIR/gallery.html, which links to the samples' files, and returns its path.

    Args:
      embed: writes WORKDIR/gallery_embedded.html instead, which contains everything (about 200 samples of the default
        size). max_bytes: of images and audio in it.

    Raises:
      UserError: the folder does not exist or has no samples, they are more than `max_bytes`, or the page cannot be
        written.
    """
    workdir = files.to_path(workdir)
    found = _open_samples(workdir)
    urls: dict[str, str] = {}
    if embed:
        urls, count = _data_urls(found, max_bytes)
        if count < len(found):
            raise UserError(
                f"{workdir}: images and audio of {len(found)} samples are more than the {max_bytes // 2**20} MiB "
                "that one file may hold; without --embed the page links to them"
            )
    path = workdir / (EMBEDDED if embed else PAGE)
    files.write(path, _page(workdir, found, urls).encode())
    return path


def show(workdir: str | Path, height: int = 800, max_bytes: int = MAX_SHOWN) -> Any:
    """Returns the page for the output of a notebook (Jupyter or Colab), with images and audio embedded.

    If they are larger than `max_bytes`, the page has only the first samples, and a link to WORKDIR/gallery.html, which
    it writes for all of them.

    Args:
      height: of the frame, in pixels.

    Returns:
      An IPython.display.HTML.

    Raises:
      UserError: the folder does not exist or has no samples, or the page cannot be written.
    """
    from IPython.display import HTML

    workdir = files.to_path(workdir)
    found = _open_samples(workdir)
    urls, count = _data_urls(found, max_bytes)
    note = ""
    if count < len(found):
        path = html.escape(str(write(workdir)), quote=True)
        note = f'<p>{count} of {len(found)} samples. All of them: <a href="{path}" target="_blank">{path}</a></p>'
    page = html.escape(_page(workdir, found[:count], urls)) if count else ""
    return HTML(_FRAME.format(page=page, height=height, note=note))


def _open_samples(workdir: Path) -> list["Sample"]:
    from its_jax.storage import samples  # It takes long to import, as NumPy does.

    found = list(samples.open_samples(workdir).values())
    if not found:
        raise UserError(f"{workdir}: has no finished samples yet")
    return found


def _data_urls(found: list["Sample"], max_bytes: int) -> tuple[dict[str, str], int]:
    from its_jax.gallery import assets

    return assets.data_urls(found, max_bytes)


def _page(workdir: Path, found: list["Sample"], urls: dict[str, str]) -> str:
    from its_jax.gallery import assets, table

    data = table.build_table(found, assets.folder_name)
    data["workdir"] = files.absolute_path(workdir)
    data["embedded"] = urls
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
