"""The flags of a command, read from its source."""

import ast
import functools
import pathlib

ROOT = pathlib.Path(__file__).parents[2]


@functools.cache
def flags_of(module):
    """Returns the names of absl's and argparse's flags."""
    path = ROOT / pathlib.Path(*module.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {"help"}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr.startswith("DEFINE_") or node.func.attr == "add_argument":
            names = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            found |= {name.removeprefix("--") for name in names}
    return found
