"""Config files: Python programs with a function `get_config` that returns a ConfigDict."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from its_jax.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = _PACKAGE.parent, _PACKAGE  # a clone has configs/ beside the package, an installed wheel inside it


def load_config(name: str | Path) -> Any:
    """Runs a config file and returns what its `get_config` returns, a ConfigDict.

    Args:
      name: 'FILE.py' or 'FILE.py:ARGUMENT'. The files of configs/ are found from any folder.

    Raises:
      UserError: the file does not exist, fails, or does not return a ConfigDict.
    """
    path, _, argument = str(name).partition(":")
    file = find_config(path)
    if file is None:
        raise UserError(f"{name}: no such file; give one such as configs/default.py")
    try:
        found = runpy.run_path(str(file)).get("get_config", dict)(*[argument] * bool(argument))
    except Exception as error:  # a config file is a program, which may fail in any way
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(f"{name}: {last}") from error
    if not hasattr(found, "to_dict"):
        raise UserError(f"{name}: must have a function get_config that returns a ConfigDict")
    return found


def find_config(path: str) -> Path | None:
    """Returns the path of a config file, or None if it does not exist."""
    candidates = (Path(path).expanduser(), *(folder / path for folder in _FOLDERS))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def default_settings(image_model: str) -> Mapping[str, Any]:
    """Returns the settings of the shipped default config for a kind of image model.

    These are `configs/default.py` for the models that come with the package, and `configs/sd15_auffusion.py` for all
    others, which are of Stable Diffusion's architecture.
    """
    name = "default" if image_model.startswith("tiny/") else "sd15_auffusion"
    return load_config(f"configs/{name}.py").to_dict()
