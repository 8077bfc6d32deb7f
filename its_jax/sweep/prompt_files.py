"""Prompt files: rows of settings that belong together, and axes of a grid that are written in a file.

    .txt    lines "image | audio"; as an axis, a value in each line
    .csv    columns that are named as the settings are
    .jsonl  an object in each line, with settings by name; as an axis, values are enough

`image`, or another term, stands for its prompt. In text files empty lines and those that begin with # are skipped. An
empty cell keeps the value of the config.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.settings.schema import TERMS
from its_jax.sweep.values import check_type, parse_json, parse_value, setting_type

SUFFIXES = (".txt", ".csv", ".jsonl")
_Lines = Iterator[tuple[int, dict[str, Any]]]  # number of a line, and its cells by column


def read_rows(file: str, types: Mapping[str, type]) -> list[tuple[str, dict[str, Any]]]:
    """Reads the rows of a prompt file: 'FILE, line N' and the settings of that line by full name.

    Args:
      types: the type of each setting by its full name.

    Raises:
      UserError: the file cannot be read, has no rows, or a line is wrong (which the message names).
    """
    rows = list(_read(file, types))
    if not rows:
        raise UserError(f"{file}: has no rows; add one or more")
    return rows


def read_axis(file: str, name: str, kind: type) -> list[Any]:
    """Reads the values of one setting from a file of one column.

    Raises:
      UserError: the file cannot be read, or a line is wrong (which the message names).
    """
    return [value for _, row in _read(file, {name: kind}, name) for value in row.values()]


def _read(file: str, types: Mapping[str, type], axis: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows of a file; with `axis`, all cells must be of that one setting."""
    path = Path(file).expanduser()
    if path.suffix not in SUFFIXES:
        raise UserError(f"{file}: must be a file of {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    read_lines = {".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl}[path.suffix]
    for number, cells in read_lines(file, text, axis):
        where = f"{file}, line {number}"
        if axis and len(cells) > 1:
            raise UserError(f"{where}: has {len(cells)} columns; an axis has one")
        yield where, _settings(where, cells, types, axis)


def _settings(where: str, cells: Mapping[str, Any], types: Mapping[str, type], axis: str) -> dict[str, Any]:
    """Returns the settings of a row by full name, without those that are empty."""
    settings = {}
    for name, value in cells.items():
        name = f"{name}.prompt" if f"{name}.prompt" in types else name
        if axis and name != axis:
            raise UserError(f"{where}: column {name!r} is not {axis}")
        kind = setting_type(name, types, where)
        if value is not None and value != "":
            read = parse_value if isinstance(value, str) and kind is not str else check_type
            settings[name] = read(where, name, value, kind)
    return settings


def _read_txt(file: str, text: str, axis: str) -> _Lines:
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if axis:
            yield number, {axis: line}
            continue
        parts = [part.strip() for part in line.split("|")]
        if len(parts) != 2 or not all(parts):
            raise UserError(f"{file}, line {number}: must be 'image prompt | audio prompt', not {line!r}")
        yield number, dict(zip(TERMS, parts, strict=True))


def _read_csv(file: str, text: str, axis: str) -> _Lines:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = _columns(file, next(lines, []))
        for cells in lines:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != len(columns):
                count = f"{len(cells)} cells for {len(columns)} columns"
                raise UserError(f"{file}, line {lines.line_num}: has {count}; put quotes around cells with commas")
            yield lines.line_num, dict(zip(columns, map(str.strip, cells), strict=True))
    except csv.Error as error:
        raise UserError(f"{file}, line {lines.line_num}: not valid CSV ({error})") from error


def _columns(file: str, header: list[str]) -> list[str]:
    """Returns the names of columns from the first line of a CSV file."""
    columns = [name.strip() for name in header]
    if len(set(columns)) < len(columns):
        raise UserError(f"{file}, line 1: two columns have the same name")
    if "" in columns:
        raise UserError(f"{file}, line 1: a column has no name")
    return columns


def _read_jsonl(file: str, text: str, axis: str) -> _Lines:
    # Not splitlines(), because JSON strings may contain other line separators such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = parse_json(f"{file}, line {number}", line)
            if axis and not isinstance(row, dict):
                row = {axis: row}
            if not isinstance(row, dict):
                raise UserError(f'{file}, line {number}: must be an object, such as {{"image": ..., "audio": ...}}')
            yield number, row
