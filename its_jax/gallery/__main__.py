"""A page over the samples of a work folder: `python -m its_jax.gallery WORKDIR`.

Writes WORKDIR/gallery.html, which any browser opens from the disk. With --embed, it writes
WORKDIR/gallery_embedded.html, a single file that contains all images and audio, up to 64 MiB.
"""

import logging

from absl import flags

from its_jax import gallery
from its_jax.runtime import cli

_EMBED = flags.DEFINE_bool("embed", False, "A single file that contains all images and audio.")


def main(workdir: str = "out") -> None:
    """Writes the gallery of a work folder."""
    logging.info("%s", gallery.write(workdir, embed=_EMBED.value).absolute())


if __name__ == "__main__":
    cli.run(main, "[WORKDIR]")
