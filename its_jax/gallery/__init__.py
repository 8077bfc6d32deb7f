"""A static page over the samples of a work folder, to look at, listen to, compare and pick from. No server, no jax.

gallery.write("sweep")  # sweep/gallery.html
gallery.show("sweep")   # in a notebook
"""

from its_jax.gallery.page import EMBEDDED, MAX_EMBEDDED, PAGE, show, write

__all__ = ["EMBEDDED", "MAX_EMBEDDED", "PAGE", "show", "write"]
