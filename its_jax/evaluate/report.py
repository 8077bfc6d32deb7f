"""Tables over samples: rows side by side as text, Markdown, JSON and a plot of CLIP against CLAP."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.storage import files
from its_jax.storage.files import write_json

FRECHET = ("FID", "FAD")
_TITLES = {"clip": "CLIP", "clap": "CLAP", "clap_griffin_lim": "CLAP (Griffin-Lim)", "round_trip": "round trip"}
_DIGITS = {"round_trip": 4}


@dataclasses.dataclass(frozen=True)
class Row:
    """Figures of one set of samples.

    Attributes:
      name: of it. n: samples.
      means: column -> mean, half of the width of its 95 % interval (nan for one sample), and how many have it.
      distances: `FID` or `FAD` -> distance from the reference.
      seconds: of a sample, at its batch size, without loading and compiling; None where no record tells.
      faults: what could not be scored.
    """

    name: str
    n: int
    means: Mapping[str, tuple[float, float, int]]
    distances: Mapping[str, float]
    seconds: float | None
    faults: Sequence[str] = ()


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table, its head first."""
    columns = list(dict.fromkeys(column for row in rows for column in row.means))
    distances = [name for name in FRECHET if any(name in row.distances for row in rows)]
    head = ["", "n", *(_TITLES.get(column, column) for column in columns), *distances, "s a sample"]
    return [head, *(_cells(row, columns, distances) for row in rows)]


def _cells(row, columns, distances):
    means = [
        _mean(row.n, *row.means[column], _DIGITS.get(column, 2)) if column in row.means else "" for column in columns
    ]
    far = [f"{row.distances[name]:.3f}" if name in row.distances else "" for name in distances]
    return [row.name, str(row.n), *means, *far, "" if row.seconds is None else f"{row.seconds:.2f}"]


def _mean(n, mean, reach, count, digits):
    text = f"{mean:.{digits}f}" + (f" ± {reach:.{digits}f}" if reach == reach else "")
    return text if count == n else f"{text} (of {count})"


def text(rows: Sequence[Row]) -> str:
    """Columns in line, for a terminal."""
    table = cells(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def markdown(rows: Sequence[Row]) -> str:
    head, *lines = ([cell.replace("|", "\\|") for cell in line] for line in cells(rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *lines))


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Means as {"mean", "reach", "n"}; what is not a number is null."""
    return [
        dataclasses.asdict(row)
        | {
            "means": {
                column: {"mean": mean, "reach": reach if reach == reach else None, "n": n}
                for column, (mean, reach, n) in row.means.items()
            }
        }
        for row in rows
    ]


def write(folder: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """FOLDER/evaluation.json, .md and, where rows have both scores, .png. UserError: cannot write."""
    with files.explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", {**about, "rows": as_json(rows)})
    files.write(folder / "evaluation.md", markdown(rows).encode())
    if drawn := [row for row in rows if {"clip", "clap"} <= row.means.keys()]:
        files.write(folder / "evaluation.png", plot(drawn))


def plot(rows: Sequence[Row]) -> bytes:
    """CLIP against CLAP with their 95 % intervals: a PNG."""
    from matplotlib.figure import Figure  # as slow to import as all else together, and needed here only

    figure = Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        (x, dx, _), (y, dy, _) = row.means["clip"], row.means["clap"]
        axes.errorbar(x, y, xerr=dx, yerr=dy, fmt="o", capsize=3, label=row.name)
    axes.set(xlabel="CLIP score of the picture", ylabel="CLAP score of the sound")
    axes.grid(alpha=0.3)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
