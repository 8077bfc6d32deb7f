"""What the settings of many samples have in common, and what they differ in: the axes of a gallery or a contact sheet.

A column is a setting by its full name (`seed`, `image.prompt`, ...) with a value for each sample; None where a sample
has no such setting. No jax.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from its_jax.settings.records import settings_of

_FOLLOWS = ("init_sha256",)  # from other settings


def columns_of(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Records -> their columns: prompts, then all other settings, `seed` last."""
    rows = [_flat(settings_of(record)) for record in records]
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    names = sorted(names, key=lambda name: (name == "seed", not is_prompt(name)))
    return {name: [row.get(name) for row in rows] for name in names}


def is_prompt(name: str) -> bool:
    return name.endswith(".prompt")


def values(column: Sequence[Any]) -> list[Any]:
    """The different values of a column: numbers by size, texts by the alphabet, None last."""
    return sorted(set(column), key=lambda value: (value is None, isinstance(value, str), value))


def varying(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The columns that have more than one value, and their values."""
    found = {name: values(column) for name, column in columns.items()}
    return {name: several for name, several in found.items() if len(several) > 1}


def ranks(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[int]]:
    """Of those columns that vary: for each sample, which of the values it has."""
    found = {}
    for name, several in varying(columns).items():
        place = {value: rank for rank, value in enumerate(several)}
        found[name] = [place[value] for value in columns[name]]
    return found


def sort_order(columns: Mapping[str, Sequence[Any]]) -> list[int]:
    """The samples' numbers, sorted by their settings."""
    count = len(next(iter(columns.values())))
    by_sample = list(zip(*ranks(columns).values(), strict=True)) or [()] * count
    return sorted(range(count), key=by_sample.__getitem__)


def _flat(settings):
    flat = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name not in _FOLLOWS:
            flat[name] = value
    return flat
