"""Lists the shipped configs, or copies one for editing: `its-jax configs`.

Each is a name for --config. Where words are listed, one of them may follow a colon, as in
`its-jax sample --config=sd15_auffusion:tiger`. `its-jax configs --copy default mine.py` writes a copy of a config, for
`its-jax sample --config=mine.py`.
"""

import contextlib
import os
import textwrap
from pathlib import Path

from absl import flags

from its_jax.errors import UserError
from its_jax.runtime import cli
from its_jax.runtime.config_files import shipped, shipped_file, shipped_names

_COPY = flags.DEFINE_string("copy", None, "The name of a shipped config, which is copied to FILE.")


def main(file: str = "") -> None:
    """Lists the configs, or copies one to `file`."""
    name = _COPY.value or ""
    if bool(name) != bool(file):
        raise UserError("give both --copy=NAME and FILE, such as --copy default mine.py, or neither for the list")
    if file:
        copy(name, Path(file))
        print(f"{file} is a copy of the config {name}")
    else:
        print("\n".join(describe(name) for name in shipped_names()))


def describe(name: str) -> str:
    """Returns the name of a config, the first line of its docstring, and the words that it takes after a colon."""
    config = shipped(name)
    lines = textwrap.wrap(config["__doc__"].splitlines()[0], 80)
    words = ", ".join(config.get("ARGUMENTS", ()))
    lines += textwrap.wrap(f"{name}:WORD with one of {words}", 80) if words else []
    return f"{name:15}" + ("\n" + " " * 15).join(lines)


def copy(name: str, file: Path) -> None:
    """Writes a copy of a shipped config.

    Raises:
      UserError: no shipped config has this name, or `file` exists or cannot be written.
    """
    if ":" in name:
        raise UserError(f"--copy={name}: give the name alone; what follows the colon is for --config")
    source = shipped_file(name)
    if file.exists():
        raise UserError(f"{file}: exists; give the name of a new file")
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(source.read_bytes())
        os.replace(temporary, file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


if __name__ == "__main__":
    cli.run(main, "[FILE]")
