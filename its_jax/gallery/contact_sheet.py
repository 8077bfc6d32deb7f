"""Samples -> a grid of cells along two settings -> pages of at most `PAGE` pixels either way."""

import dataclasses
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from its_jax.errors import UserError
from its_jax.gallery import axes
from its_jax.media import text_layout
from its_jax.settings.parse import unknown_setting
from its_jax.storage import files, samples
from its_jax.storage.samples import Sample

PAGE = 3600  # pixels, which viewers open at once
_WIDEST, _TALLEST = 320, 160  # pixels of a picture

Columns = Mapping[str, Sequence[Any]]


def write(workdir: str | Path, x: str = "", y: str = "", picture: str = "spectrogram") -> list[Path]:
    """Writes WORKDIR/sheet-01.png and so on, and returns their paths; removes pages of an earlier sheet.

    Args:
      x, y: settings whose values label the columns and the rows, such as 'audio.prompt'. Without both of them, those
        that vary: prompts first, `seed` only if it is named.
      picture: which of the samples' pictures: 'spectrogram', 'image', or a further view's term.

    Raises:
      UserError: the folder does not exist or has no samples, there is no such setting or picture, or it cannot be
        written.
    """
    workdir = files.to_path(workdir)
    found = list(samples.open_samples(workdir).values())
    if not found:
        raise UserError(f"{workdir}: there are no finished samples in it yet")
    for sample in found:
        there = *sample.pictures, *sample.colors
        if picture not in there:
            raise UserError(f"picture={picture}: {sample.id} has only {', '.join(there)}")
    settings = axes.columns_of([sample.record for sample in found])
    grid = _grid(settings, *_axes(settings, x, y))
    paths: list[Path] = []
    for page in _pages(grid, found, picture, workdir.name):
        paths.append(workdir / f"sheet-{len(paths) + 1:02d}.png")
        files.write(paths[-1], _png(page))
    for old in set(workdir.glob("sheet-[0-9]*.png")) - set(paths):
        old.unlink()
    return paths


def _png(page):
    file = io.BytesIO()
    page.save(file, format="PNG")
    return file.getvalue()


def _axes(settings: Columns, x: str, y: str) -> tuple[str, str]:
    """The settings along the columns and along the rows; '' is none."""
    for axis, name in (("x", x), ("y", y)):
        if name and name not in settings:
            raise UserError(f"{axis}={name}: {unknown_setting(name, list(settings))}")
    if x and x == y:
        raise UserError(f"x={x} and y={y}: take two different settings")
    if not (x or y):
        y, x, *_ = [*(name for name in axes.varying(settings) if name != "seed"), "", ""]
    return x, y


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Labels of the columns and rows, and for each (row, column) the numbers of its samples.

    Attributes:
      captions: of each sample, what tells it from the others of its cell. common: the prompts that all samples have.
    """

    corner: str
    common: str
    across: list[str]
    down: list[str]
    cells: Mapping[tuple[int, int], list[int]]
    captions: list[str]


def _grid(settings: Columns, x: str, y: str) -> _Grid:
    varying, ranks, order = axes.varying(settings), axes.ranks(settings), axes.sort_order(settings)
    rest = [name for name in varying if name not in (x, y)]
    rows, tops = (ranks.get(name, [0] * len(order)) for name in (y, x))
    cells: dict[tuple[int, int], list[int]] = {}
    for sample in order:
        cells.setdefault((rows[sample], tops[sample]), []).append(sample)
    across, down = ([_told(value) for value in axes.values(settings[name])] if name else [""] for name in (x, y))
    captions = [", ".join(_caption(name, settings[name][sample]) for name in rest) for sample in range(len(order))]
    corner = "\n".join(f"{name} {way}" for name, way in ((x, "across"), (y, "down")) if name)
    common = " | ".join(settings[name][0] for name in settings if axes.is_prompt(name) and name not in varying)
    return _Grid(corner, common, across, down, cells, captions)


def _told(value):
    return {None: "none", "": "(empty)"}.get(value, str(value))


def _caption(name, value):
    return _told(value) if axes.is_prompt(name) else f"{name} {_told(value)}"


def _pages(grid: _Grid, found: Sequence[Sample], picture: str, title: str) -> Iterator[Image.Image]:
    width, height = _size(found[0].picture(picture))
    frame = text_layout.Frame(width, height, any(grid.captions), any(grid.across), any(grid.down))
    tiles_fit, lines_fit = frame.fits(PAGE)
    in_cell = _side_by_side(max(map(len, grid.cells.values())), max(1, tiles_fit // len(grid.across)))
    lines_parts = _parts(list(_lines(grid, in_cell)), lines_fit)
    across_parts = _parts(range(len(grid.across)), max(1, tiles_fit // in_cell))
    pages = list(itertools.product(lines_parts, across_parts))
    for number, (lines, across) in enumerate(pages, 1):
        rows = []
        for n, (row, tiles) in enumerate(lines):
            label = grid.down[row] if n == 0 or lines[n - 1][0] != row else ""
            shown = [grid.cells.get((row, column), [])[tiles] for column in across]
            rows.append((label, [[_tile(grid, found, sample, picture) for sample in cell] for cell in shown]))
        page = f"page {number} of {len(pages)}" if len(pages) > 1 else ""
        foot = ", ".join(filter(None, (title, f"{len(found)} samples", page, grid.common)))
        yield text_layout.contact_sheet_page(
            frame, in_cell, grid.corner, [grid.across[column] for column in across], rows, foot
        )


def _lines(grid, in_cell):
    """The lines of all rows: a row's number, and which of a cell's samples are side by side there."""
    for row in range(len(grid.down)):
        most = max(len(grid.cells.get((row, column), [])) for column in range(len(grid.across)))
        yield from ((row, slice(start, start + in_cell)) for start in range(0, most, in_cell))


def _parts(values, length):
    return [values[start : start + length] for start in range(0, len(values), length)]


def _side_by_side(count, fitting):
    """How many of a cell's samples: as few as fill no more lines than the most that fit."""
    return -(-count // -(-count // fitting))


def _size(picture):
    """Pixels that pictures of this shape are shown with."""
    height, width = picture.shape[:2]
    scale = min(_WIDEST / width, _TALLEST / height)
    return max(1, round(scale * width)), max(1, round(scale * height))


def _tile(grid, found, sample, picture):
    pixels = np.rint(255 * found[sample].picture(picture)).astype(np.uint8)
    return Image.fromarray(pixels), grid.captions[sample]
