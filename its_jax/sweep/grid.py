"""Expands a grid, settings and axes over them, into the samples of a sweep. No jax.

An axis is a list of values for one setting (`seed`, `image.prompt`, ...), written as

    a list     ("a painting of trees", "a drawing of a cat"), or on the command line a,b or ["a, b", "c"]
    a range    "0..7", or "0.3..0.7..0.1" with its step; its end is one of the values
    a file     "towns.txt" (a value in each line), or a .csv or .jsonl with one column

Axes are crossed with each other. A prompt file links settings instead, a row for each: lines "image | audio" of a
.txt, or the columns of a .csv or .jsonl, named as the settings are (`image`, or another term, for its prompt). In text
files empty lines and those that begin with # are passed over; an empty cell of a row leaves the config's value.
"""

import csv
import dataclasses
import decimal
import io
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import UserError, unknown_setting
from its_jax.settings.ids import sample_ids
from its_jax.settings.parse import expand
from its_jax.settings.schema import TERMS, SampleSettings, setting_types
from its_jax.settings.validate import check_seed

FILES = (".txt", ".csv", ".jsonl")
_KNOWN = ", ".join(FILES)
MAX_VALUES = 10**6  # of a range, beyond which it is a slip of the pen
_BOOLS = {"true": True, "false": False}


def read_grid(
    settings: Mapping[str, Any], axes: Mapping[str, Any], prompts: str = "", flags: Sequence[str] = ()
) -> dict[str, SampleSettings]:
    """Returns the samples of a grid by id: rows of the prompt file outermost, then the axes in their order, seeds innermost.

    Without an axis over `seed` each cell has seeds as in a config, from its `seed` on, `num_samples` of them.

    Args:
      settings: a config's, those of a sample and `num_samples`. axes: values by setting, as nested as the settings.
      prompts: name of a prompt file, or ""; its columns take the place of `axes` of the same name.
      flags: axes as 'setting=values'; they do so, too.

    Raises:
      UserError: a setting or file that is not there, a value that is wrong (its line is named), no cell at all.
    """
    kinds = setting_types(settings) | {"num_samples": int}
    given = _flags(flags, kinds)
    rows = _rows(prompts, kinds) if prompts else [("", {})]
    columns = {key for _, row in rows for key in row}
    for key in given.keys() & columns:
        raise UserError(f"--axis={key} is a column of {prompts} too: take one of them away")
    known = {key: values for key, values in (_axes(axes, kinds) | given).items() if key not in columns}
    requested: dict[str, SampleSettings] = {}
    cells = 0
    for where, changes in _cells(rows, known):
        try:
            cell = _expand_cell(settings, changes, known.get("seed"))
        except UserError as error:
            raise UserError(f"{where}: {error}" if where else str(error)) from error
        cells += len(cell)
        for name, one in zip(sample_ids(cell[0], [one.seed for one in cell]), cell, strict=True):
            requested.setdefault(name, one)
    if same := cells - len(requested):
        logging.info("%d of %d cells of the grid are the same as others; each is made once", same, cells)
    return requested


def _cells(rows, axes):
    """Changes of the settings, seeds aside."""
    crossed = {key: values for key, values in axes.items() if key != "seed"}
    for where, row in rows:
        for values in itertools.product(*crossed.values()):
            yield where, row | dict(zip(crossed, values, strict=True))


def _expand_cell(settings, changes, seeds):
    """Returns the samples of one cell. They share the settings of their terms, so that many take little memory."""
    changed = dict(settings)
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        if group:
            changed[group] = {**changed[group], name: value}
        else:
            changed[key] = value
    if seeds is None:
        return expand(changed, changed["num_samples"])
    (first,) = expand(changed | {"seed": min(seeds)}, 1)
    check_seed(max(seeds))
    return [dataclasses.replace(first, seed=seed) for seed in seeds]


def _axes(axes, kinds, prefix=""):
    found = {}
    for name, given in axes.items():
        key = f"{prefix}{name}"
        if isinstance(given, Mapping):
            found |= _axes(given, kinds, f"{key}.")
        else:
            found[key] = _values(key, given, _kind(key, kinds, "the grid"))
    return found


def _flags(flags, kinds):
    found = {}
    for key, values in (_flag(flag, kinds) for flag in flags):
        if key in found:
            raise UserError(f"--axis={key} is given twice: give all of its values at once")
        found[key] = values
    return found


def _flag(flag, kinds):
    key, equals, text = flag.partition("=")
    if not equals:
        raise UserError(f"--axis={flag}: must be SETTING=VALUES, such as seed=0..3")
    kind = _kind(key, kinds, f"--axis={flag}")
    if text.startswith("["):
        return key, _values(key, _json(f"--axis={flag}", text), kind)
    if kind in (str, bool) and not text.endswith(FILES):
        parts = [part.strip() for part in text.split(",")]
        return key, _checked(key, [_typed(f"--axis={flag}", key, part, kind) for part in parts if part])
    return key, _values(key, text, kind)


def _kind(key, kinds, where):
    if key in kinds:
        return kinds[key]
    raise UserError(f"{where}: {unknown_setting(key, kinds)}")


def _values(key, given, kind):
    """The values of an axis as a config or a file has them."""
    if isinstance(given, str) and given.endswith(FILES):
        return _checked(key, [value for _, row in _lines(given, {key: kind}, key) for value in row.values()])
    if isinstance(given, str) and kind in (int, float):
        return _checked(key, _numbers(key, given, kind))
    if not isinstance(given, list | tuple):
        raise UserError(f"grid.{key}={given!r}: must be a list of values, a range of numbers, or a file ({_KNOWN})")
    return _checked(key, [_of_kind(f"grid.{key}", key, value, kind) for value in given])


def _checked(key, values):
    if not values:
        raise UserError(f"grid.{key}: has no values, so that there is nothing to make; give one or more")
    return values


def _numbers(key, text, kind):
    """'0..3' or '1, 2, 5..9' -> numbers."""
    try:
        return [kind(value) for part in text.split(",") for value in _range(part, kind)]
    except (ValueError, ArithmeticError) as error:
        example = "'0..7'" if kind is int else "'0.3..0.7..0.1'"
        raise UserError(f"grid.{key}={text!r}: must be numbers, or a rising range such as {example}") from error


def _range(text, kind):
    """In decimals, for which 0.3 + 0.1 is 0.4."""
    start, *rest = [decimal.Decimal(part.strip()) for part in text.split("..")]
    if not rest:
        return [kind(text)]
    end, step = rest if len(rest) == 2 else (*rest, decimal.Decimal(1))
    if not (step > 0 and end >= start and (end - start) / step < MAX_VALUES) or (kind is float and len(rest) == 1):
        raise ValueError(text)
    values = [start + i * step for i in range(int((end - start) / step) + 1)]
    if kind is int and any(value != int(value) for value in values):
        raise ValueError(text)
    return values


def _rows(file, kinds):
    rows = list(_lines(file, kinds))
    if not rows:
        raise UserError(f"{file}: has no rows, so that there is nothing to make")
    return rows


def _lines(file: str, kinds: Mapping[str, type], key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """'FILE, line N' and its settings; with `key`, those are of that one setting."""
    path = Path(file).expanduser()
    if path.suffix not in FILES:
        raise UserError(f"{file}: must be a file of {_KNOWN}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    reader = {".txt": _txt, ".csv": _csv, ".jsonl": _jsonl}[path.suffix]
    for number, cells in reader(file, text, key):
        where = f"{file}, line {number}"
        if key and len(cells) > 1:
            raise UserError(f"{where}: has {len(cells)} columns; an axis has one")
        yield where, {name: _cell(where, name, value, kinds) for name, value in _named(where, cells, kinds, key)}


def _named(where, cells, kinds, key):
    """Columns by the names of their settings, without those that are empty."""
    for name, value in cells.items():
        name = f"{name}.prompt" if f"{name}.prompt" in kinds else name
        if key and name != key:
            raise UserError(f"{where}: the column {name!r} is no {key}")
        _kind(name, kinds, where)
        if value is not None and value != "":
            yield name, value


def _cell(where, name, value, kinds):
    text = isinstance(value, str) and kinds[name] is not str
    return (_typed if text else _of_kind)(where, name, value, kinds[name])


def _txt(file, text, key):
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if key:
            yield number, {key: line}
            continue
        parts = [part.strip() for part in line.split("|")]
        if len(parts) != 2 or not all(parts):
            raise UserError(f"{file}, line {number}: must be 'image prompt | audio prompt', not {line!r}")
        yield number, dict(zip(TERMS, parts, strict=True))


def _csv(file, text, key):
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip() for name in next(lines, [])]
        if len(set(columns)) < len(columns):
            raise UserError(f"{file}, line 1: a column is there twice; each needs a name of its own")
        if "" in columns:
            raise UserError(f"{file}, line 1: a column has no name")
        for cells in lines:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != len(columns):
                count = f"{len(cells)} cells for {len(columns)} columns"
                raise UserError(f"{file}, line {lines.line_num}: has {count}; put quotes around what holds commas")
            yield lines.line_num, dict(zip(columns, map(str.strip, cells), strict=True))
    except csv.Error as error:
        raise UserError(f"{file}, line {lines.line_num}: is no CSV ({error})") from error


def _jsonl(file, text, key):
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = _json(f"{file}, line {number}", line)
            if key and not isinstance(row, dict):
                row = {key: row}
            if not isinstance(row, dict):
                raise UserError(f'{file}, line {number}: must be an object, such as {{"image": ..., "audio": ...}}')
            yield number, row


def _json(where, text):
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: is no JSON ({error})") from error


def _typed(where, key, text, kind):
    """Text -> a value of a setting."""
    convert = {bool: lambda text: _BOOLS[text.lower()]}.get(kind, kind)
    try:
        return convert(text)
    except (ValueError, KeyError) as error:
        raise UserError(f"{where}: {key}={text!r}: must be of type {kind.__name__}") from error


def _of_kind(where, key, value, kind):
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise UserError(f"{where}: {key}={value!r}: must be of type {kind.__name__}")
