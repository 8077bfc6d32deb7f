"""The settings in which samples differ: the axes of a gallery or a contact sheet. No jax.

A column is a setting by its full name (`seed`, `image.prompt`, ...) with its value for each sample, or None where a
sample lacks the setting.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from its_jax.settings.records import settings_of

_DERIVED = ("init_sha256",)  # settings that follow from others


def columns_of(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Collects the settings of many records by name: prompts first, `seed` last."""
    rows = [_flatten(settings_of(record)) for record in records]
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    names = sorted(names, key=lambda name: (name == "seed", not is_prompt(name)))
    return {name: [row.get(name) for row in rows] for name in names}


def is_prompt(name: str) -> bool:
    """Returns whether a setting is the prompt of a term."""
    return name.endswith(".prompt")


def values(column: Sequence[Any]) -> list[Any]:
    """Returns the different values of a column: numbers by size, texts in alphabetical order, None last."""
    return sorted(set(column), key=lambda value: (value is None, isinstance(value, str), value))


def varying(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Returns the names of the columns that have several values, with these values."""
    found = {name: values(column) for name, column in columns.items()}
    return {name: several for name, several in found.items() if len(several) > 1}


def ranks(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[int]]:
    """Returns for each column that varies the index of each sample's value among the column's values."""
    found = {}
    for name, several in varying(columns).items():
        index = {value: rank for rank, value in enumerate(several)}
        found[name] = [index[value] for value in columns[name]]
    return found


def sort_order(columns: Mapping[str, Sequence[Any]]) -> list[int]:
    """Returns the indices of the samples, sorted by their settings."""
    count = len(next(iter(columns.values())))
    by_sample = list(zip(*ranks(columns).values(), strict=True)) or [()] * count
    return sorted(range(count), key=by_sample.__getitem__)


def _flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name not in _DERIVED:
            flat[name] = value
    return flat
