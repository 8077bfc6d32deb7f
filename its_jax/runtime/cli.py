"""What all entry points share: a user's mistake is one line on stderr and exit status 2 (3: a full disk), never a
traceback."""

import contextlib
import functools
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging

from its_jax.errors import UserError

# Errors of flags and configs whose own words say what is wrong; of others, the place is told too.
_SELF_EXPLANATORY = (flags.Error, AttributeError, TypeError, ValueError, OSError, ImportError, SyntaxError)


def run(main, *operands, config: Path | None = None):
    """Parses the flags and runs `main()`, with a string for each of `operands`, the names of what has no flag.

    Args:
      config: the file that --config is, unless it is given. (Of a default of its own, that flag tells mistakes in its
        settings when it is defined, in several lines.)
    """
    if config is not None and not any(re.match("--?config(=|$)", argument) for argument in sys.argv[1:]):
        sys.argv.insert(1, f"--config={config}")
    parse = functools.partial(_parse, operands=operands)
    app.run(lambda argv: _guarded(functools.partial(main, *argv[1:])), flags_parser=parse)


def check_out(out: Path) -> None:
    """Makes the folder of the file that --out names, before anything is measured for it.

    Raises:
      UserError: no file can be written there.
    """
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.absolute().parent):
            pass
    except OSError as error:
        raise UserError(f"--out={out}: cannot be written ({error.strerror})") from error
    if out.is_dir():
        raise UserError(f"--out={out}: is a folder; give the name of a file")


def _parse(argv, operands):
    try:
        rest = flags.FLAGS(argv)
        # That a config file is missing is noticed only when something of it is asked for.
        getattr(getattr(flags.FLAGS, "config", None), "to_dict", None)
    except Exception as error:  # a config file is a program, which may fail in any way
        _fail(describe(error))
    if "config" in flags.FLAGS and flags.FLAGS["config"].present and not hasattr(flags.FLAGS.config, "to_dict"):
        _fail(f"--config: get_config must return a ConfigDict, not a {type(flags.FLAGS.config).__name__}")
    if rest[1 + len(operands) :]:
        how = f"give {' '.join(operands)} only" if operands else "settings are given as --config.name=value"
        _fail(f"unexpected argument {rest[1 + len(operands)]!r}; {how}")
    if missing := operands[len(rest) - 1 :]:
        _fail(f"{missing[0]} is missing")
    return rest


def _guarded(main):
    with log_to_stdout():
        _run(main)


def _run(main):
    silence_libraries()
    try:
        main()
    except UserError as error:
        _fail(error, error.status)
    except BrokenPipeError:  # whoever reads what we print has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        _fail("interrupted; what is complete is kept, and the same command makes the rest")


def silence_libraries() -> None:
    """Keeps libraries from telling what is as it should be."""
    for noisy in ("absl", "orbax", "jax", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Its retries; what it gives up on, we tell. It sets its logger's level when it is imported.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints tracebacks of what we tell in a line
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is missing is as it should be


@contextlib.contextmanager
def log_to_stdout() -> Iterator[None]:
    """Logs to stdout, but warnings to stderr; absl's own handler takes both to stderr."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    news, warnings = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    news.addFilter(lambda record: record.levelno < logging.WARNING)
    warnings.setLevel(logging.WARNING)
    for handler in (news, warnings):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    absl_handler = absl_logging.get_absl_handler()
    root.handlers = [*(handler for handler in before if handler is not absl_handler), news, warnings]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = before
        root.setLevel(level)


def describe(error: Exception) -> str:
    """What is wrong with a config or a setting of it, in a line.

    ml_collections tells in several, a traceback among them; the last one says what is wrong.
    """
    if isinstance(error.__context__, KeyError):
        return unknown_setting(error.__context__)
    if not isinstance(error, _SELF_EXPLANATORY):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{frame.filename}, line {frame.lineno}: {type(error).__name__}: {error}"
    last = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return re.sub(r"^\s*\w+Error: ", "", last)


def unknown_setting(error: KeyError) -> str:
    """ml_collections' error for the name of a setting that a config does not have, in a line."""
    name, *hint = str(error.args[0]).splitlines()
    return f"there is no setting {name}; {hint[0] if hint else 'look for its name in the config file'}"


def _fail(message, status=2):
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(status)
