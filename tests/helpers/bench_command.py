"""Runs commands of `bench/` in this process."""

import contextlib
import runpy
import warnings
from collections.abc import Iterator

from absl import app, flags

from tests.helpers.command import command_line


def run(module: str, *arguments: object) -> int:
    """Runs `python -m MODULE ARGUMENTS` and returns its exit status."""
    with command_line(module, *arguments), _own_flags(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # runpy warns about modules that the tests have imported before
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
    return 0


@contextlib.contextmanager
def _own_flags() -> Iterator[None]:
    """Hides the flags of other commands inside, and removes the flags that are defined inside.

    Several commands define flags of the same name, and some flags are required.
    """
    app.define_help_flags()
    others = _take_flags()
    try:
        yield
    finally:
        _take_flags()
        for name, flag in others.items():
            flags.FLAGS[name] = flag
        flags.FLAGS.unparse_flags()


def _take_flags() -> dict[str, flags.Flag]:
    """Removes all flags but absl's own, and returns them."""
    names = [name for name in flags.FLAGS if not flags.FLAGS.find_module_defining_flag(name, "").startswith("absl")]
    taken = {name: flags.FLAGS[name] for name in names}
    for name in names:
        delattr(flags.FLAGS, name)
    return taken
