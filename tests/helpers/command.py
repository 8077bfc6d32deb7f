"""Runs the `main` of a command in this process."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import pytest
from absl import app
from absl.testing import flagsaver

from its_jax.runtime import cli


def run_main(main: Callable, name: str, *arguments: object, **options) -> int:
    """Runs a command with these arguments and returns its exit status.

    Args:
      options: of `its_jax.runtime.cli.run`.
    """
    with command_line(name, *arguments), flagsaver.flagsaver():
        try:
            cli.run(main, **options)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
    return 0


@contextlib.contextmanager
def command_line(name: str, *arguments: object) -> Iterator[None]:
    """Lets `app.run` read these arguments, and return when `main` does instead of ending the process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])  # config_flags reads them there
        patch.setattr(app, "run", lambda main, flags_parser: main(flags_parser(sys.argv)))
        yield
