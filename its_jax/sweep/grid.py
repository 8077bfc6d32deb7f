"""Expands a grid, settings and axes over them, into the samples of a sweep. No jax.

An axis is a list of values for one setting (`seed`, `image.prompt`, ...), written as

    a list     ("a painting of trees", "a drawing of a cat"), or on the command line a,b or ["a, b", "c"]
    a range    "0..7", or "0.3..0.7..0.1" with its step; the end is one of the values
    a file     "towns.txt" (a value in each line), or a .csv or .jsonl with one column

Axes are crossed with each other. The rows of a prompt file link settings instead, see `its_jax.sweep.prompt_files`.
"""

import dataclasses
import decimal
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from its_jax.errors import UserError
from its_jax.settings.ids import sample_ids
from its_jax.settings.parse import expand
from its_jax.settings.schema import SampleSettings, setting_types
from its_jax.settings.validate import check_seed
from its_jax.sweep.prompt_files import SUFFIXES, read_axis, read_rows
from its_jax.sweep.values import check_type, parse_json, parse_value, setting_type

MAX_VALUES = 10**6  # A range of more values is taken for a typing error.
_Types = Mapping[str, type]  # by full name of a setting
_Axes = dict[str, list[Any]]  # values by full name of a setting
_Row = tuple[str, dict[str, Any]]  # where it was read, '' for the config, and its settings by full name


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid as it was requested.

    Attributes:
      settings: of a config. prompts: name of the prompt file, or ''.
      rows: of the prompt file; without one a single empty row.
      axes: values by setting, without seeds. seeds: the values of the axis over seeds, or None without one.
      flags: names of the axes that the command line has given.
    """

    settings: Mapping[str, Any]
    prompts: str
    rows: Sequence[_Row]
    axes: _Axes
    seeds: Sequence[int] | None
    flags: Collection[str] = ()

    def samples(self) -> dict[str, SampleSettings]:
        """Returns the samples by id: rows outermost, then the axes in order, seeds innermost.

        Raises:
          UserError: a value is wrong; the line of the prompt file is named.
        """
        requested: dict[str, SampleSettings] = {}
        for where, changes in self._cells():
            cell = _expand_cell(self.settings, where, changes, self.seeds)
            for name, one in zip(sample_ids(cell[0], [one.seed for one in cell]), cell, strict=True):
                requested.setdefault(name, one)
        return requested

    @property
    def samples_each(self) -> list[int]:
        """Returns the number of samples of each cell."""
        if self.seeds is not None:
            return [len(self.seeds)] * math.prod(map(len, (self.rows, *self.axes.values())))
        return [changes.get("num_samples", self.settings["num_samples"]) for _, changes in self._cells()]

    def origin(self, name: str) -> str:
        """Returns where an axis is written, such as 'the grid' or '--axis=seed'."""
        return f"--axis={name}" if name in self.flags else "the grid"

    def _cells(self) -> Iterator[_Row]:
        """Yields the changed settings of each cell; seeds are left out."""
        for where, row in self.rows:
            for values in itertools.product(*self.axes.values()):
                yield where, row | dict(zip(self.axes, values, strict=True))


def read_grid(
    settings: Mapping[str, Any], axes: Mapping[str, Any], prompts: str = "", flags: Sequence[str] = ()
) -> dict[str, SampleSettings]:
    """Returns the samples of a grid by id, see `open_grid` and `Grid.samples`."""
    return open_grid(settings, axes, prompts, flags).samples()


def open_grid(
    settings: Mapping[str, Any], axes: Mapping[str, Any], prompts: str = "", flags: Sequence[str] = ()
) -> Grid:
    """Reads the axes and the prompt file of a grid.

    Without an axis over `seed` each cell has the seeds of a config: `num_samples` of them, from `seed` on.

    Args:
      settings: of a config, those of a sample and `num_samples`.
      axes: values by setting, as nested as the settings.
      prompts: name of a prompt file, or ''. Its columns replace the `axes` of the same name.
      flags: axes as 'setting=values', which replace those of `axes`, too.

    Raises:
      UserError: a setting or file does not exist, a value is wrong (the line is named), or there are no cells.
    """
    types = setting_types(settings) | {"num_samples": int}
    from_flags = _read_flags(flags, types)
    rows = read_rows(prompts, types) if prompts else [("", {})]
    columns = {name for _, row in rows for name in row}
    for name in from_flags.keys() & columns:
        raise UserError(f"--axis={name} is a column of {prompts} too: remove one of them")
    found = _read_axes(axes, types) | from_flags
    found = {name: values for name, values in found.items() if name not in columns}
    seeds = found.pop("seed", None)
    return Grid(settings, prompts, rows, found, seeds, from_flags.keys())


def _expand_cell(
    settings: Mapping[str, Any], where: str, changes: Mapping[str, Any], seeds: Sequence[int] | None
) -> list[SampleSettings]:
    """Returns the samples of one cell. They share the settings of their terms, so that many take little memory."""
    changed = dict(settings)
    for key, value in changes.items():
        term, _, name = key.rpartition(".")
        if term:
            changed[term] = {**changed[term], name: value}
        else:
            changed[key] = value
    try:
        if seeds is None:
            return expand(changed, changed["num_samples"])
        (first,) = expand(changed | {"seed": min(seeds)}, 1)
        check_seed(max(seeds))
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from error
    return [dataclasses.replace(first, seed=seed) for seed in seeds]


def _read_axes(axes: Mapping[str, Any], types: _Types, prefix: str = "") -> _Axes:
    """Reads the axes of a config."""
    found: _Axes = {}
    for key, given in axes.items():
        name = f"{prefix}{key}"
        if isinstance(given, Mapping):
            found |= _read_axes(given, types, f"{name}.")
        else:
            found[name] = _read_values(name, given, setting_type(name, types, "the grid"))
    return found


def _read_flags(flags: Sequence[str], types: _Types) -> _Axes:
    """Reads the axes of the command line."""
    found: _Axes = {}
    for name, values in (_read_flag(flag, types) for flag in flags):
        if name in found:
            raise UserError(f"--axis={name} is given twice: give all of its values at once")
        found[name] = values
    return found


def _read_flag(flag: str, types: _Types) -> tuple[str, list[Any]]:
    name, equals, text = flag.partition("=")
    if not equals:
        raise UserError(f"--axis={flag}: must be SETTING=VALUES, such as seed=0..3")
    kind = setting_type(name, types, f"--axis={flag}")
    if text.startswith("["):
        return name, _read_values(name, parse_json(f"--axis={flag}", text), kind)
    if kind in (str, bool) and not text.endswith(SUFFIXES):
        parts = [part.strip() for part in text.split(",")]
        return name, _not_empty(name, [parse_value(f"--axis={flag}", name, part, kind) for part in parts if part])
    return name, _read_values(name, text, kind)


def _read_values(name: str, given: Any, kind: type) -> list[Any]:
    """Reads the values of an axis as a config has them: a list, a range or the name of a file."""
    if isinstance(given, str) and given.endswith(SUFFIXES):
        return _not_empty(name, read_axis(given, name, kind))
    if isinstance(given, str) and kind in (int, float):
        return _not_empty(name, _read_numbers(name, given, kind))
    if not isinstance(given, list | tuple):
        known = ", ".join(SUFFIXES)
        raise UserError(f"grid.{name}={given!r}: must be a list of values, a range of numbers, or a file ({known})")
    return _not_empty(name, [check_type(f"grid.{name}", name, value, kind) for value in given])


def _not_empty(name: str, values: list[Any]) -> list[Any]:
    """Returns the values, or raises `UserError` if there are none."""
    if not values:
        raise UserError(f"grid.{name}: has no values; give one or more")
    return values


def _read_numbers(name: str, text: str, kind: type) -> list[Any]:
    """Reads numbers such as '0..3' or '1, 2, 5..9'."""
    try:
        return [kind(value) for part in text.split(",") for value in _read_range(part, kind)]
    except (ValueError, ArithmeticError) as error:
        example = "'0..7'" if kind is int else "'0.3..0.7..0.1'"
        raise UserError(f"grid.{name}={text!r}: must be numbers, or a rising range such as {example}") from error


def _read_range(text: str, kind: type) -> list[Any]:
    """Reads a number or a range, in decimals, because 0.3 + 0.1 is not 0.4 in binary."""
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
