"""The number of samples of each cell and whether videos are written, which configs for single runs do not decide.

An example config says how many samples `its_jax.sample` generates. In a sweep that number would multiply the rows of a
prompt file. So a sweep has the values of `DEFAULTS`, unless one of these states others:

    a column of the prompt file, or an axis of the grid
    the command line, `--config.num_samples=4`
    a config that is made for sweeps, because it has a `grid` or `prompts` of its own
"""

from collections.abc import Collection, Mapping
from typing import Any

DEFAULTS: dict[str, Any] = {"num_samples": 1, "video": False}
ORIGIN = "the default of sweeps"
_MADE_FOR_SWEEPS = ("grid", "prompts")  # A config that has one of these is made for sweeps.


def find_origins(config: Mapping[str, Any], changed: Collection[str] = ()) -> dict[str, str]:
    """Returns where each of `DEFAULTS` comes from, such as 'the config', '--config.video' or `ORIGIN`.

    Args:
      config: settings as the config has them, before options of the command line are added.
      changed: full names of settings that were given in place of those of the config.
    """
    of_config = "the config" if any(name in config for name in _MADE_FOR_SWEEPS) else ORIGIN
    return {name: f"--config.{name}" if name in changed else of_config for name in DEFAULTS}


def apply(settings: Mapping[str, Any], origins: Mapping[str, str]) -> dict[str, Any]:
    """Returns the settings with those of `DEFAULTS` that nothing else states."""
    return dict(settings) | {name: value for name, value in DEFAULTS.items() if origins[name] == ORIGIN}
