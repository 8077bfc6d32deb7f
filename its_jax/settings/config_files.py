"""Config files: Python programs with a function `get_config` that returns a ConfigDict."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from its_jax.errors import UserError, describe_exception, unknown_setting
from its_jax.settings.schema import EMBEDDED

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = _PACKAGE.parent, _PACKAGE  # a clone has configs/ beside the package, an installed wheel inside it


def load_config(name: str | Path, changes: Mapping[str, Any] | None = None) -> Any:
    """Runs a config file and returns what its `get_config` returns, a ConfigDict.

    Args:
      name: 'FILE.py' or 'FILE.py:ARGUMENT'. The files of configs/ are found from any folder.
      changes: settings by full name, such as 'image.prompt', in place of those of the file.

    Raises:
      UserError: the file does not exist, fails, or does not return a ConfigDict; or a change is wrong.
    """
    path, _, argument = str(name).partition(":")
    file = find_config(path)
    if file is None:
        raise UserError(f"{name}: no such file; give one such as configs/default.py")
    try:
        found = runpy.run_path(str(file)).get("get_config", dict)(*[argument] * bool(argument))
    except Exception as error:  # a config file is a program, which may fail in any way
        raise UserError(f"{name}: {describe_exception(error)}") from error
    if not hasattr(found, "to_dict"):
        raise UserError(f"{name}: must have a function get_config that returns a ConfigDict")
    for setting, value in (changes or {}).items():
        _change(found, setting, value)
    return found


def _change(config_dict: Any, setting: str, value: Any) -> None:
    """Changes a setting by its full name; raises `UserError` if it does not exist or has another type."""
    known = _full_names(config_dict.to_dict())
    if setting not in known:
        raise UserError(f"{setting}={value!r}: {unknown_setting(setting, known)}")
    try:
        config_dict.update_from_flattened_dict({setting: value})
    except (TypeError, ValueError) as error:
        raise UserError(f"{setting}={value!r}: {describe_exception(error)}") from error


def _full_names(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns the full names of settings, such as 'image.prompt'."""
    names = []
    for key, value in settings.items():
        names += _full_names(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return names


def find_config(path: str) -> Path | None:
    """Returns the path of a config file, or None if it does not exist."""
    candidates = (Path(path).expanduser(), *(folder / path for folder in _FOLDERS))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def default_settings(image_model: str) -> Mapping[str, Any]:
    """Returns the settings of the shipped default config for a kind of image model.

    These are `configs/default.py` for the models that come with the package, and `configs/sd15_auffusion.py` for all
    others, which are of Stable Diffusion's architecture.
    """
    name = "default" if image_model.startswith(EMBEDDED) else "sd15_auffusion"
    return load_config(f"configs/{name}.py").to_dict()
