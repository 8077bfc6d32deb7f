"""Values of settings in grids and prompt files: their types are checked, and text is converted to them."""

import json
from collections.abc import Mapping
from typing import Any

from its_jax.errors import UserError, unknown_setting

_BOOLS = {"true": True, "false": False}


def setting_type(name: str, types: Mapping[str, type], where: str) -> type:
    """Returns the type of a setting.

    Args:
      types: by full name of a setting. where: what the error message begins with, such as a file and a line.

    Raises:
      UserError: the setting does not exist.
    """
    if name in types:
        return types[name]
    raise UserError(f"{where}: {unknown_setting(name, types)}")


def check_type(where: str, name: str, value: Any, kind: type) -> Any:
    """Returns a value if it is of this type; an integer is a float, too.

    Raises:
      UserError: it is not.
    """
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise UserError(f"{where}: {name}={value!r}: must be of type {kind.__name__}")


def parse_value(where: str, name: str, text: str, kind: type) -> Any:
    """Converts text to a value of this type.

    Raises:
      UserError: the text is not a value of this type.
    """
    try:
        return _BOOLS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        raise UserError(f"{where}: {name}={text!r}: must be of type {kind.__name__}") from error


def parse_json(where: str, text: str) -> Any:
    """Reads JSON.

    Raises:
      UserError: the text is not valid JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error})") from error
