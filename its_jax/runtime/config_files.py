"""Config files: Python programs with a function `get_config` that returns a ConfigDict."""

import os
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from its_jax.errors import UserError, describe_exception, unknown_setting

_PACKAGE = Path(__file__).parents[1]
# The folder of the shipped configs: an installed wheel has it inside the package, a clone beside it.
SHIPPED = next(folder / "configs" for folder in (_PACKAGE, _PACKAGE.parent) if (folder / "configs").is_dir())


def load_config(name: str | Path, changes: Mapping[str, Any] | None = None) -> Any:
    """Runs a config file and returns what its `get_config` returns, a ConfigDict.

    Args:
      name: 'FILE.py' or the name of a shipped config, or one of them with an argument, as in 'sd15_auffusion:tiger'.
      changes: settings by full name, such as 'image.prompt', in place of those of the file.

    Raises:
      UserError: the config does not exist, fails, or does not return a ConfigDict; or a change is wrong.
    """
    file, _, argument = resolve(str(name)).partition(":")
    try:
        found = runpy.run_path(file).get("get_config", dict)(*[argument] * bool(argument))
    except Exception as error:  # a config file is a program, which may fail in any way
        raise UserError(f"{name}: {describe_exception(error)}") from error
    if not hasattr(found, "to_dict"):
        raise UserError(f"{name}: must have a function get_config that returns a ConfigDict")
    for setting, value in (changes or {}).items():
        _change(found, setting, value)
    return found


def _change(config_dict: Any, setting: str, value: Any) -> None:
    """Changes a setting by its full name; raises `UserError` if it does not exist or has another type."""
    known = flatten(config_dict.to_dict())
    if setting not in known:
        raise UserError(f"{setting}={value!r}: {unknown_setting(setting, known)}")
    try:
        config_dict.update_from_flattened_dict({setting: value})
    except (TypeError, ValueError) as error:
        raise UserError(f"{setting}={value!r}: {describe_exception(error)}") from error


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings by their full names, such as 'image.prompt'."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def resolve(name: str) -> str:
    """Returns the path of a config file, with the argument that `name` has after a colon.

    Args:
      name: the path of a file, which takes precedence, or the name of a shipped config, see `shipped_file`.

    Raises:
      UserError: there is neither such a file nor such a shipped config.
    """
    path, colon, argument = name.partition(":")
    local = os.path.expanduser(path)
    return f"{local if os.path.isfile(local) else shipped_file(path)}{colon}{argument}"


def shipped_file(name: str) -> Path:
    """Returns the file of a shipped config, whose name may be written as 'NAME', 'NAME.py' or 'configs/NAME.py'.

    Raises:
      UserError: no shipped config has this name.
    """
    stem = name.removeprefix("configs/").removesuffix(".py")
    if stem not in shipped_names():
        raise UserError(f"config {name}: neither a file nor a shipped config; shipped are {', '.join(shipped_names())}")
    return SHIPPED / f"{stem}.py"


def shipped_names() -> list[str]:
    """Returns the names of the shipped configs in alphabetical order."""
    return sorted(path.stem for path in SHIPPED.glob("*.py"))


def shipped(name: str) -> dict[str, Any]:
    """Runs a shipped config and returns what it defines by name, for a config that builds on it."""
    return runpy.run_path(str(SHIPPED / f"{name}.py"))
