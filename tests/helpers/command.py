"""Runs the `main` of a command in this process."""

import sys
from collections.abc import Callable

import pytest
from absl import app
from absl.testing import flagsaver

from its_jax.runtime import cli


def run_main(main: Callable, name: str, *arguments: object, **options) -> int:
    """Runs a command with these arguments and returns its exit status.

    Args:
      options: of `its_jax.runtime.cli.run`.
    """
    argv = [name, *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver():
        patch.setattr(sys, "argv", argv)  # config_flags reads them there
        patch.setattr(app, "run", lambda main, flags_parser: main(flags_parser(sys.argv)))
        try:
            cli.run(main, **options)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
    return 0
