"""The console command `its-jax`: `its-jax NAME ...` runs the command of that name, as `python -m` does."""

import ast
import runpy
import sys
import textwrap
from pathlib import Path

from its_jax.errors import unknown_name

_OWN = ("sample", "sweep", "top", "gallery", "sheet", "video", "colorize", "evaluate", "versus", "sign", "benchmark")
_OWN += ("tiny.train", "tiny.evaluate")
# The modules of the commands by name, in the order in which they are listed.
COMMANDS = {name: f"its_jax.{name}" for name in _OWN}
COMMANDS |= {"convert": "convert", "configs": "its_jax.runtime.list_configs"}


def main() -> None:
    """Runs the command that the first argument names, or lists all commands."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-help", "-h", "help"):
        print(page())
    elif name not in COMMANDS:
        print(f"error: {unknown_name('command', name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv = [f"its-jax {name}", *arguments]
        runpy.run_module(COMMANDS[name], run_name="__main__")


def page() -> str:
    """Returns the list of all commands, with a line about each."""
    width = max(map(len, COMMANDS)) + 2
    lines = ["usage: its-jax COMMAND ...", "", "Commands (its-jax COMMAND --help describes one):", ""]
    for name, module in COMMANDS.items():
        lines += textwrap.wrap(f"  {name:{width}}{_summary(module)}", 98, subsequent_indent=" " * (width + 2))
    return "\n".join(lines)


def _summary(module: str) -> str:
    """Returns the beginning of a module's docstring, read without importing the module."""
    path = Path(__file__).parents[2] / module.replace(".", "/")
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.splitlines()[0].partition(": `")[0].rstrip(".")
