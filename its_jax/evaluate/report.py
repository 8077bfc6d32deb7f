"""Writes tables of samples: as text, Markdown, JSON, and a plot of CLIP against CLAP."""

import dataclasses
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.storage import files
from its_jax.storage.files import write_json

FRECHET = ("FID", "FAD")
_TITLES = {"clip": "CLIP", "clap": "CLAP", "clap_griffin_lim": "CLAP (Griffin-Lim)", "round_trip": "round trip"}
_DIGITS = {"round_trip": 4}  # after the decimal point; 2 for all others


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of a set of samples.

    Attributes:
      name: of the row.
      n: the number of samples.
      means: column -> mean, half the width of its 95 % interval (NaN for a single sample), and number of scores.
      distances: `FID` or `FAD` -> distance from the reference.
      seconds: the duration of a sample at its batch size, without loading and compiling; None if no record has it.
      faults: what could not be scored.
      scores: CLIP and CLAP score of each sample that has both.
    """

    name: str
    n: int
    means: Mapping[str, tuple[float, float, int]]
    distances: Mapping[str, float]
    seconds: float | None
    faults: Sequence[str] = ()
    scores: Sequence[tuple[float, float]] = ()


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Returns the cells of the table, by line; the first line is the head."""
    columns = list(dict.fromkeys(column for row in rows for column in row.means))
    distances = [name for name in FRECHET if any(name in row.distances for row in rows)]
    head = ["", "n", *(_TITLES.get(column, column) for column in columns), *distances, "s a sample"]
    return [head, *(_line(row, columns, distances) for row in rows)]


def _line(row: Row, columns: Sequence[str], distances: Sequence[str]) -> list[str]:
    means = [_mean(row, column) if column in row.means else "" for column in columns]
    frechet = [f"{row.distances[name]:.3f}" if name in row.distances else "" for name in distances]
    return [row.name, str(row.n), *means, *frechet, "" if row.seconds is None else f"{row.seconds:.2f}"]


def _mean(row: Row, column: str) -> str:
    (mean, half_width, count), digits = row.means[column], _DIGITS.get(column, 2)
    text = f"{mean:.{digits}f}" + (f" ± {half_width:.{digits}f}" if half_width == half_width else "")
    return text if count == row.n else f"{text} (of {count})"


def text(rows: Sequence[Row]) -> str:
    """Returns the table with aligned columns, for a terminal."""
    table = cells(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def markdown(rows: Sequence[Row]) -> str:
    """Returns the table in Markdown."""
    head, *lines = ([cell.replace("|", "\\|") for cell in line] for line in cells(rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *lines))


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns the rows for JSON: means as {"mean", "reach", "n"}, in which NaN becomes null."""
    return [_row_as_json(row) for row in rows]


def _row_as_json(row: Row) -> dict[str, Any]:
    fields = {name: value for name, value in dataclasses.asdict(row).items() if name != "scores"}
    return fields | {"means": _means_as_json(row)}


def _means_as_json(row: Row) -> dict[str, dict[str, Any]]:
    return {
        column: {"mean": mean, "reach": half_width if half_width == half_width else None, "n": n}
        for column, (mean, half_width, n) in row.means.items()
    }


def write(folder: Path, name: str, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Writes FOLDER/NAME.json, .md and, if rows have both scores and matplotlib is installed, .png.

    Raises:
      UserError: a file cannot be written.
    """
    with files.explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", {**about, "rows": as_json(rows)})
    files.write(folder / f"{name}.md", markdown(rows).encode())
    if plotted := [row for row in rows if {"clip", "clap"} <= row.means.keys()]:
        try:
            picture = plot(plotted)
        except UserError as error:  # The table is complete without it.
            logging.warning("%s.png is not written: %s", name, error)
        else:
            files.write(folder / f"{name}.png", picture)


def plot(rows: Sequence[Row]) -> bytes:
    """Plots CLIP against CLAP.

    Several rows are shown by their means with 95 % intervals. A single row is shown by all of its samples, with
    histograms of both scores beside them.

    Returns:
      a PNG.

    Raises:
      UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need matplotlib; pip install 'its_jax[plot]'") from error

    figure = Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if len(rows) == 1 and rows[0].scores:
        _plot_samples(axes, rows[0].scores)
    for row in rows:
        (x, dx, _), (y, dy, _) = row.means["clip"], row.means["clap"]
        label = f"{row.name}: mean of {row.n}, 95 % interval" if len(rows) == 1 and row.n > 1 else row.name
        axes.errorbar(x, y, xerr=dx, yerr=dy, fmt="o", capsize=3, label=label)
    axes.set(xlabel="CLIP score of the image", ylabel="CLAP score of the audio")
    axes.grid(alpha=0.3)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _plot_samples(axes: Any, scores: Sequence[tuple[float, float]]) -> None:
    """Plots a point for each sample, and histograms of both scores along the upper and the right edge."""
    clip, clap = zip(*scores, strict=True)
    axes.scatter(clip, clap, s=12, alpha=0.5, color="gray", linewidths=0, label="samples")
    above, beside = axes.inset_axes((0, 1.02, 1, 0.18), sharex=axes), axes.inset_axes((1.02, 0, 0.14, 1), sharey=axes)
    above.hist(clip, bins="auto", color="gray", alpha=0.5)
    beside.hist(clap, bins="auto", color="gray", alpha=0.5, orientation="horizontal")
    above.tick_params(labelbottom=False)
    beside.tick_params(labelleft=False)
    above.set_ylabel("samples")
    beside.set_xlabel("samples")
