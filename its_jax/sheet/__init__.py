"""Contact sheets: the samples of a work folder as PNG pages, along two settings. No jax.

sheet.write("sweep")                                # sweep/sheet-01.png, ..., along the settings that vary
sheet.write("sweep", x="image.weight", y="image.prompt", picture="image")
"""

from pathlib import Path


def write(workdir: str | Path, x: str = "", y: str = "", picture: str = "spectrogram") -> list[Path]:
    """Writes WORKDIR/sheet-01.png and so on, and returns their paths; pages of an earlier sheet go.

    Args:
      x, y: settings whose values label the columns and the rows, such as 'audio.prompt'. Without both of them, those
        that vary: prompts first, `seed` only if it is named.
      picture: which of the samples' pictures: 'spectrogram', 'image', or a further view's term.

    Raises:
      UserError: no such folder, no samples in it, no such setting or picture, or it cannot be written.
    """
    from its_jax.sheet import pages  # slow, as numpy is

    return pages.write(workdir, x, y, picture)
