"""The command line: flags, logs and errors of all commands.

A user's mistake is one line on stderr and exit status 2 (3 for a full disk), never a traceback.
"""

import contextlib
import functools
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from its_jax import errors
from its_jax.errors import UserError
from its_jax.runtime import config_files, help_page

_CONFIG = re.compile("--?config=(.*)", re.DOTALL)


def run(
    main: Callable[..., None],
    *operands: str,
    config: str | Path | None = None,
    config_unless: str = "",
    docs: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None,
) -> None:
    """Parses the flags and runs `main`, with a string for each of `operands`. `--help` prints a page and exits with 0.

    Args:
      operands: names of the arguments that have no flag, such as 'WORKDIR', or '[WORKDIR]' if it may be left out.
      config: the default of --config, a file or the name of a shipped config. (The flag's own default would report
        mistakes in settings when the flag is defined, in several lines.)
      config_unless: a flag that takes the place of --config, so that --config has no default beside it.
      docs: returns a line of documentation for each key of a config, for `--help`.
    """
    try:
        arguments = _with_config(sys.argv[1:], config, config_unless)
        if _is_given("help|helpshort|helpfull|h", arguments):
            page = help_page.page(main, operands, _configs(arguments)[-1:], docs)
            _run_reporting_errors(functools.partial(print, page, flush=True))
            sys.exit(0)
        sys.argv[1:] = _with_paths(arguments)
    except UserError as error:
        fail(str(error), error.status)
    parse = functools.partial(_parse, operands=operands, settings=docs({}) if docs else ())
    app.run(lambda argv: _run_reporting_errors(functools.partial(main, *argv[1:])), flags_parser=parse)


def _with_config(arguments: Sequence[str], default: str | Path | None, unless: str) -> list[str]:
    """Returns the arguments with --config=DEFAULT if neither --config nor the flag `unless` is among them."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in ("--config", "-config"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    if default is None or _is_given("config", joined) or unless and _is_given(unless, joined):
        return joined
    return [f"--config={default}", *joined]


def _with_paths(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with the path of a file in place of each name of a config."""
    if "config" not in flags.FLAGS:
        return list(arguments)
    return [f"--config={config_files.resolve(match[1])}" if (match := _CONFIG.match(a)) else a for a in arguments]


def _configs(arguments: Sequence[str]) -> list[str]:
    """Returns the names that --config has among the arguments."""
    return [match[1] for argument in arguments if (match := _CONFIG.match(argument))]


def _is_given(names: str, arguments: Sequence[str]) -> bool:
    """Returns whether one of these flags, names with | between, is among the arguments."""
    return any(re.match(f"--?({names})(=|$)", argument) for argument in arguments)


def check_out(out: Path) -> None:
    """Checks early that the file --out can be written, and creates its folder.

    Raises:
      UserError: it cannot be written.
    """
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.absolute().parent):
            pass
    except OSError as error:
        raise UserError(f"--out={out}: cannot be written ({error.strerror})") from error
    if out.is_dir():
        raise UserError(f"--out={out}: is a folder; give the name of a file")


def _parse(argv: list[str], operands: Sequence[str], settings: Collection[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        # A missing config file is noticed only when one of its attributes is read.
        getattr(getattr(flags.FLAGS, "config", None), "to_dict", None)
    except Exception as error:  # A config file is a program, which may fail in any way.
        fail(describe(error, settings))
    if "config" in flags.FLAGS and flags.FLAGS["config"].present and not hasattr(flags.FLAGS.config, "to_dict"):
        fail(f"--config: get_config must return a ConfigDict, not a {type(flags.FLAGS.config).__name__}")
    if rest[1 + len(operands) :]:
        advice = f"give {' '.join(operands)} only" if operands else "settings are given as --config.name=value"
        fail(f"unexpected argument {rest[1 + len(operands)]!r}; {advice}")
    if missing := [name for name in operands[len(rest) - 1 :] if not name.startswith("[")]:
        fail(f"{missing[0]} is missing")
    return rest


def _run_reporting_errors(main: Callable[[], None]) -> None:
    """Runs `main` with logs on stdout, and turns a user's mistake into one line and an exit status."""
    with log_to_stdout():
        silence_libraries()
        try:
            main()
        except UserError as error:
            fail(str(error), error.status)
        except BrokenPipeError:  # The reader of our output, such as `head`, has closed it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt:
            fail("interrupted; what is complete is kept, and the same command makes the rest")


def silence_libraries() -> None:
    """Silences library messages that do not indicate a problem."""
    for noisy in ("absl", "orbax", "jax", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It logs its retries, and we report its final failures. It sets its logger's level when it is imported.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # It logs tracebacks of errors that we report.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # PyTorch is not needed.


class _Handler(logging.StreamHandler):
    """A handler that ends the program when the reader of its stream is gone, instead of printing a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exception(), BrokenPipeError):
            raise
        super().handleError(record)


@contextlib.contextmanager
def log_to_stdout() -> Iterator[None]:
    """Logs to stdout, and warnings to stderr. absl's own handler would send both to stderr."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    infos, warnings = _Handler(sys.stdout), _Handler(sys.stderr)
    infos.addFilter(lambda record: record.levelno < logging.WARNING)
    warnings.setLevel(logging.WARNING)
    for handler in (infos, warnings):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    absl_handler = absl_logging.get_absl_handler()
    root.handlers = [*(handler for handler in before if handler is not absl_handler), infos, warnings]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = before
        root.setLevel(level)


def describe(error: Exception, settings: Collection[str] = ()) -> str:
    """Returns what is wrong with a config or one of its settings, in one line.

    Args:
      settings: full names of settings that a config may leave out.
    """
    if isinstance(error.__context__, KeyError):
        return unknown_setting(error.__context__, settings)
    return errors.describe_exception(error, (flags.Error, UserError, *errors.SELF_EXPLANATORY))


def unknown_setting(error: KeyError, settings: Collection[str] = ()) -> str:
    """Returns the message for ml_collections' error about a setting that a config does not have.

    Args:
      settings: full names of settings that a config may leave out.
    """
    name, *hint = str(error.args[0]).replace("'", "").splitlines()
    # The error has only the last part of the name, and the flag has all of it.
    flag = next((found for found in sys.argv if re.match(rf"--?config\.([\w.]+\.)?{re.escape(name)}(=|$)", found)), "")
    prefix = flag.partition("config.")[2].partition("=")[0].removesuffix(name)
    if prefix + name in settings:
        return f"the config leaves out {prefix}{name}: add it there, so that the command line can change it"
    close = re.match(r'Did you mean "(\w+)"', hint[0]) if hint else None
    known = [close[1]] if close else _keys_of_config(error)
    return errors.unknown_setting(name, known, prefix) if known else f"there is no setting {prefix}{name}"


def _keys_of_config(error: KeyError) -> list[str]:
    """Returns the keys of the ConfigDict that raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    config: Any = frames[-1].f_locals.get("self") if frames else None
    return list(config.keys()) if hasattr(config, "keys") else []


def fail(message: str, status: int = 2) -> NoReturn:
    """Prints a message as one line on stderr and exits with `status`."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(status)
