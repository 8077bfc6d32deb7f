"""The page of `--help`: what a command does, its flags, and the settings of its config."""

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from its_jax.runtime.config_files import flatten, load_config

WIDTH = 90  # columns
_INDENT = " " * 6
_NAMES = {"config object": "NAME or FILE.py", "string enum": "string", "multi string": "string"}
_NAMES |= {"comma separated list of strings": "list"}


def page(
    main: Callable[..., None],
    operands: Sequence[str],
    config: Sequence[str] = (),
    docs: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None,
) -> str:
    """Returns the page of a command.

    Args:
      main: the function of the command, in a module with a docstring.
      operands: names of the arguments that have no flag.
      config: the config whose settings are listed, if there is one.
      docs: returns a line of documentation for each key of a config.

    Raises:
      UserError: the config cannot be read.
    """
    module = getattr(main, "func", main).__globals__
    own = _own_flags()
    parts = [" ".join(["usage:", _program_name(module), "[--FLAG=VALUE ...]", *operands])]
    parts += [_fill(paragraph) for paragraph in (module["__doc__"] or "").strip().split("\n\n")]
    parts += ["Flags:", _entries(_describe_flag(flag, config) for flag in own)]
    for name in config:
        settings = load_config(name).to_dict()
        known = dict(docs(settings)) if docs else {}
        known |= {flag.name: _text(flag) for flag in own if flag.name not in known}
        parts += [f"Settings, with their values in the config {name}:", _entries(_describe_settings(settings, known))]
    return "\n\n".join(parts)


def _program_name(module: Mapping[str, Any]) -> str:
    """Returns how the program was called whose main module has these globals, such as 'python -m its_jax.sample'."""
    if sys.argv[0].startswith("its-jax "):
        return sys.argv[0]
    return f"python -m {module['__spec__'].name.removesuffix('.__main__')}"


def _own_flags() -> list[flags.Flag]:
    """Returns the flags that are not absl's, in the order of their definitions."""
    modules = flags.FLAGS.flags_by_module_dict().items()
    return [flag for module, defined in modules if not module.startswith("absl") for flag in defined]


def _describe_flag(flag: flags.Flag, config: Sequence[str]) -> tuple[str, str]:
    """Returns the heading and the text of a flag."""
    kind = flag.flag_type()
    values = getattr(flag.parser, "enum_values", None)
    default = config[-1] if kind == "config object" and config else flag.default
    notes = [" or ".join(values) if values else _NAMES.get(kind, kind)]
    notes += [] if default in (None, []) else [f"default {default!r}"]
    notes += ["required"] if flag.validators else []
    return f"--{flag.name} ({', '.join(notes)})", _text(flag)


def _text(flag: flags.Flag) -> str:
    """Returns the help of a flag as its command defines it: absl adds to that of enums and of lists."""
    return re.sub(r"^<[^>]*>: |;\s+repeat this option .*$", "", flag.help)


def _describe_settings(settings: Mapping[str, Any], docs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields the heading and the text of settings in the order of `docs`; those with the same text are together."""
    headings: dict[tuple[str, str], list[str]] = {}
    values, order = flatten(settings), list(docs)
    for name in sorted(values, key=lambda name: order.index(name) if name in docs else len(order)):
        value, text = values[name], docs.get(name, "")
        lines = headings.setdefault((text, "" if text else name), [])
        lines.append(f"--config.{name} ({type(value).__name__}, default {value!r})")
    for (text, _), lines in headings.items():
        yield "\n".join(lines), text


def _entries(entries: Iterable[tuple[str, str]]) -> str:
    """Formats headings and, indented below each, its text."""
    lines = []
    for heading, text in entries:
        lines += [
            textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent=_INDENT) for line in heading.splitlines()
        ]
        lines += [textwrap.fill(_plain(text), WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)] * bool(text)
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Returns Markdown without its marks: [text](address) becomes text (address), and `code` loses its quotes."""
    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", r"\1 (\2)", text).replace("`", "")


def _fill(paragraph: str) -> str:
    """Wraps a paragraph, unless it is indented, as examples are."""
    return paragraph if paragraph.startswith(" ") else textwrap.fill(paragraph, WIDTH, break_long_words=False)
