"""Typed reading of settings into frozen dataclasses."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from its_jax.errors import UserError


def setting(doc: str, *, in_ids: bool = True, **options: Any) -> Any:
    """Returns a dataclass field with one line of documentation.

    Args:
      in_ids: False for a setting that ids leave out where it has its default.
      **options: those of `dataclasses.field`.
    """
    return dataclasses.field(metadata={"doc": doc, "in_ids": in_ids}, **options)


def field_types(cls: type) -> dict[str, Any]:
    """Returns the type of each field of a dataclass."""
    return {field.name: field.type for field in dataclasses.fields(cls)}


def field_docs(cls: type) -> dict[str, str]:
    """Returns the line of documentation of each field of a dataclass made of `setting`s."""
    return {field.name: field.metadata["doc"] for field in dataclasses.fields(cls)}


def field_defaults(cls: type, *, in_ids: bool | None = None) -> dict[str, Any]:
    """Returns the default of each field that has one, of a dataclass made of `setting`s.

    Args:
      in_ids: selects the fields that were defined so; None selects all.
    """
    fields = [field for field in dataclasses.fields(cls) if in_ids in (None, field.metadata["in_ids"])]
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def parse_types(settings: Mapping[str, Any], types: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the settings that `types` names. An int becomes a float where a float is due, so that 10 and 10.0 give
    one id.

    Raises:
      UserError: a setting is missing or has another type; `prefix` stands before its name.
    """
    found: dict[str, Any] = {}
    for name, kind in types.items():
        if name not in settings:
            raise UserError(f"the setting {prefix}{name} is missing")
        value = settings[name]
        kinds = (kind,) if isinstance(kind, type) else get_args(kind)  # of a union, such as float | None
        if type(value) is int and int not in kinds and float in kinds:
            value = float(value)
        if type(value) not in kinds:
            names = " or ".join("None" if one is type(None) else one.__name__ for one in kinds)
            raise UserError(f"{prefix}{name}={value!r}: must be of type {names}")
        found[name] = value
    return found
