"""Contact sheets: grids of samples along two settings, as pages of a bounded size."""

import dataclasses
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from its_jax.errors import UserError, unknown_setting
from its_jax.gallery import axes
from its_jax.media import text_layout
from its_jax.storage import files, samples
from its_jax.storage.samples import Sample

MAX_PAGE = 3600  # pixels in either direction, which viewers open quickly
MAX_WIDTH, MAX_HEIGHT = 320, 160  # pixels of an image


def write(
    workdir: str | Path, x: str = "", y: str = "", image: str = "spectrogram", max_page: int = MAX_PAGE
) -> list[Path]:
    """Writes WORKDIR/sheet-01.png and so on, and returns their paths. It removes the pages of an earlier sheet.

    Args:
      x, y: the settings along columns and rows, such as 'audio.prompt'. Without both, they are the first ones that
        vary: prompts take precedence, and `seed` is used only if it is named.
      image: the name of one of the samples' images, such as 'spectrogram', 'image' or 'color_00'.
      max_page: width and height of the largest page in pixels.

    Raises:
      UserError: the folder does not exist or has no samples, the setting or image does not exist, or a page cannot be
        written.
    """
    workdir = files.to_path(workdir)
    found = list(samples.open_samples(workdir).values())
    if not found:
        raise UserError(f"{workdir}: has no finished samples yet")
    for sample in found:
        names = *sample.image_names, *sample.colorings
        if image not in names:
            raise UserError(f"picture={image}: {sample.id} has only {', '.join(names)}")
    grid = build_grid([sample.record for sample in found], x, y)
    pages = build_pages(grid, _displayed_size(found[0].read_image(image)), workdir.name, max_page)
    paths: list[Path] = []
    for page in pages:
        paths.append(workdir / f"sheet-{len(paths) + 1:02d}.png")
        files.write(paths[-1], _png(_draw(page, grid, found, image)))
    for old in set(workdir.glob("sheet-[0-9]*.png")) - set(paths):
        old.unlink()
    return paths


@dataclasses.dataclass(frozen=True)
class Grid:
    """Samples along two settings, by their indices.

    Attributes:
      corner: the names of the two settings. common: the prompts that all samples share.
      across, down: labels of columns and rows. cells: (row, column) -> indices of samples.
      captions: for each sample, the settings in which it differs from the others of its cell.
    """

    corner: str
    common: str
    across: list[str]
    down: list[str]
    cells: Mapping[tuple[int, int], list[int]]
    captions: list[str]


def build_grid(records: Sequence[Mapping[str, Any]], x: str = "", y: str = "") -> Grid:
    """Arranges samples by their settings `x` and `y`, or by those that vary. UserError: a setting does not exist."""
    settings = axes.columns_of(records)
    x, y = _choose_axes(settings, x, y)
    varying, ranks, order = axes.varying(settings), axes.ranks(settings), axes.sort_order(settings)
    rest = [name for name in varying if name not in (x, y)]
    rows, columns = (ranks.get(name, [0] * len(order)) for name in (y, x))
    cells: dict[tuple[int, int], list[int]] = {}
    for sample in order:
        cells.setdefault((rows[sample], columns[sample]), []).append(sample)
    across, down = ([_label(value) for value in axes.values(settings[name])] if name else [""] for name in (x, y))
    captions = [", ".join(_caption(name, settings[name][sample]) for name in rest) for sample in range(len(order))]
    corner = "\n".join(f"{name} {direction}" for name, direction in ((x, "across"), (y, "down")) if name)
    common = " | ".join(settings[name][0] for name in settings if axes.is_prompt(name) and name not in varying)
    return Grid(corner, common, across, down, cells, captions)


def _choose_axes(settings: Mapping[str, Sequence[Any]], x: str, y: str) -> tuple[str, str]:
    """Returns the settings along columns and rows, which may be ''."""
    for axis, name in (("x", x), ("y", y)):
        if name and name not in settings:
            raise UserError(f"{axis}={name}: {unknown_setting(name, list(settings))}")
    if x and x == y:
        raise UserError(f"x={x} and y={y}: take two different settings")
    if not (x or y):
        y, x, *_ = [*(name for name in axes.varying(settings) if name != "seed"), "", ""]
    return x, y


def _label(value: Any) -> str:
    return {None: "none", "": "(empty)"}.get(value, str(value))


def _caption(name: str, value: Any) -> str:
    return _label(value) if axes.is_prompt(name) else f"{name} {_label(value)}"


@dataclasses.dataclass(frozen=True)
class Page:
    """A page of a grid.

    Attributes:
      in_cell: the number of images of a cell that are side by side. across: labels of the columns.
      rows: for each line its label, which is empty where it continues the row above, and each cell's samples.
      foot: a note below the images.
    """

    frame: text_layout.Frame
    in_cell: int
    across: list[str]
    rows: list[tuple[str, list[list[int]]]]
    foot: str


def build_pages(grid: Grid, image_size: tuple[int, int], title: str, max_page: int = MAX_PAGE) -> Iterator[Page]:
    """Divides a grid into pages of at most `max_page` pixels in either direction.

    Args:
      image_size: width and height in pixels. title: of the note at the foot.
    """
    frame = text_layout.Frame(*image_size, any(grid.captions), any(grid.across), any(grid.down))
    images_fit, lines_fit = frame.fits(max_page)
    in_cell = _side_by_side(max(map(len, grid.cells.values())), max(1, images_fit // len(grid.across)))
    lines_parts = _split(list(_lines(grid, in_cell)), lines_fit)
    columns_parts = _split(range(len(grid.across)), max(1, images_fit // in_cell))
    parts = list(itertools.product(lines_parts, columns_parts))
    for number, (lines, columns) in enumerate(parts, 1):
        rows = []
        for n, (row, selected) in enumerate(lines):
            label = grid.down[row] if n == 0 or lines[n - 1][0] != row else ""
            rows.append((label, [grid.cells.get((row, column), [])[selected] for column in columns]))
        page = f"page {number} of {len(parts)}" if len(parts) > 1 else ""
        foot = ", ".join(filter(None, (title, f"{len(grid.captions)} samples", page, grid.common)))
        yield Page(frame, in_cell, [grid.across[column] for column in columns], rows, foot)


def _lines(grid: Grid, in_cell: int) -> Iterator[tuple[int, slice]]:
    """Yields the lines of all rows: the index of the row, and the part of each cell that is in the line."""
    for row in range(len(grid.down)):
        most = max(len(grid.cells.get((row, column), [])) for column in range(len(grid.across)))
        yield from ((row, slice(start, start + in_cell)) for start in range(0, most, in_cell))


def _split(values: Sequence[Any], length: int) -> list[Sequence[Any]]:
    return [values[start : start + length] for start in range(0, len(values), length)]


def _side_by_side(count: int, fitting: int) -> int:
    """Returns how many samples of a cell are side by side: the fewest that need no more lines than `fitting` do."""
    return -(-count // -(-count // fitting))


def _displayed_size(image: np.ndarray) -> tuple[int, int]:
    """Returns width and height, in pixels, at which images of this shape are drawn."""
    height, width = image.shape[:2]
    scale = min(MAX_WIDTH / width, MAX_HEIGHT / height)
    return max(1, round(scale * width)), max(1, round(scale * height))


def _draw(page: Page, grid: Grid, found: Sequence[Sample], image: str) -> Image.Image:
    def tile(sample: int) -> text_layout.Tile:
        pixels = np.rint(255 * found[sample].read_image(image)).astype(np.uint8)
        return Image.fromarray(pixels), grid.captions[sample]

    rows = [(label, [list(map(tile, cell)) for cell in cells]) for label, cells in page.rows]
    return text_layout.contact_sheet_page(page.frame, page.in_cell, grid.corner, page.across, rows, page.foot)


def _png(page: Image.Image) -> bytes:
    file = io.BytesIO()
    page.save(file, format="PNG")
    return file.getvalue()
