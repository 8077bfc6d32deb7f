"""Typed reading of settings into frozen dataclasses."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from its_jax.errors import UserError


def setting(doc: str, **options: Any) -> Any:
    """Returns a dataclass field with one line of documentation; `options` are those of `dataclasses.field`."""
    return dataclasses.field(metadata={"doc": doc}, **options)


def field_types(cls: type) -> dict[str, Any]:
    """Returns the type of each field of a dataclass."""
    return {field.name: field.type for field in dataclasses.fields(cls)}


def field_docs(cls: type) -> dict[str, str]:
    """Returns the line of documentation of each field of a dataclass made of `setting`s."""
    return {field.name: field.metadata["doc"] for field in dataclasses.fields(cls)}


def field_defaults(cls: type) -> dict[str, Any]:
    """Returns the default of each field of a dataclass that has one."""
    fields = dataclasses.fields(cls)
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
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise UserError(f"{prefix}{name}={value!r}: must be of type {kind.__name__}")
        found[name] = kind(value)
    return found
