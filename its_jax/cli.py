"""What all entry points share: a user's mistake is one line on stderr and exit status 2, never a traceback."""

import logging
import re
import sys

from absl import app, flags

from its_jax.errors import UserError


def start(main):
    """Parses the flags and runs `main()`."""
    app.run(lambda argv: _guarded(main), flags_parser=_parse)


def _parse(argv):
    try:
        rest = flags.FLAGS(argv)
        # That a config file is missing is noticed only when something of it is asked for.
        getattr(getattr(flags.FLAGS, "config", None), "to_dict", None)
    except (flags.Error, AttributeError, TypeError, ValueError, OSError, ImportError, SyntaxError) as error:
        _fail(_reason(error))
    if rest[1:]:
        _fail(f"unexpected argument {rest[1]!r}; settings are given as --config.name=value")
    return rest


def _guarded(main):
    logging.getLogger().setLevel(logging.INFO)
    for noisy in ("absl", "orbax", "jax", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        main()
    except UserError as error:
        _fail(error)
    except KeyboardInterrupt:
        _fail("interrupted; what is complete is kept, and the same command makes the rest")


def _reason(error):
    """ml_collections tells in several lines, a traceback among them; the last one says what is wrong."""
    if isinstance(error.__context__, KeyError):
        name, *hint = error.__context__.args[0].splitlines()
        return f"there is no setting {name}; {hint[0] if hint else 'look for its name in the config file'}"
    last = str(error).strip().splitlines()[-1]
    return re.sub(r"^\s*\w+Error: ", "", last)


def _fail(message):
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)
