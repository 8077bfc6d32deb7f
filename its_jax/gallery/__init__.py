"""A static page over the samples of a work folder, to look at, listen to, compare and pick from. No server, no jax.

gallery.write("sweep")  # sweep/gallery.html
gallery.show("sweep")   # in a notebook
"""

from pathlib import Path
from typing import Any

PAGE = "gallery.html"
EMBEDDED = "gallery_embedded.html"
MAX_EMBEDDED = 64 * 2**20  # bytes of pictures and sounds in one file; browsers and notebooks stumble over more


def write(workdir: str | Path, embed: bool = False) -> Path:
    """Writes WORKDIR/gallery.html and returns its path; it links to the samples' files.

    Args:
      embed: write WORKDIR/gallery_embedded.html, which holds all that it shows (some 200 samples of the default size).

    Raises:
      UserError: no such folder, no samples in it, more than `MAX_EMBEDDED` to embed, or it cannot be written.
    """
    from its_jax.gallery import page  # slow, as numpy is

    return page.write(workdir, embed)


def show(workdir: str | Path, height: int = 800) -> Any:
    """The page for a notebook's output (Jupyter or Colab), with everything embedded: an IPython.display.HTML.

    Args:
      height: of the frame, in pixels.

    Raises:
      UserError: as `write`.
    """
    from IPython.display import HTML

    from its_jax.gallery import page

    return HTML(page.frame(workdir, height))
