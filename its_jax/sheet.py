"""Contact sheets of a work folder: `python -m its_jax.sheet WORKDIR [--x=SETTING] [--y=SETTING]`.

Writes WORKDIR/sheet-01.png and, for large grids, further pages.
"""

import logging

from absl import flags

from its_jax.runtime import cli

_X = flags.DEFINE_string("x", "", "The setting along the columns, such as audio.prompt.")
_Y = flags.DEFINE_string("y", "", "The setting along the rows, such as image.prompt.")
_PICTURE = flags.DEFINE_string("picture", "spectrogram", "Or image, the term of a further view, or color_00.")


def main(workdir: str = "out") -> None:
    """Writes contact sheets of a work folder."""
    from its_jax.gallery import contact_sheet  # It takes long to import, as NumPy does.

    for path in contact_sheet.write(workdir, x=_X.value, y=_Y.value, image=_PICTURE.value):
        logging.info("%s", path)


if __name__ == "__main__":
    cli.run(main, "[WORKDIR]")
