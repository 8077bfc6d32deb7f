"""What all entry points share: a user's mistake is one line on stderr and exit status 2, never a traceback."""

import logging
import sys

from absl import app, flags

from its_jax.errors import UserError


def start(main):
    """Parses the flags and runs `main()`."""
    app.run(lambda argv: _guarded(main), flags_parser=_parse)


def _parse(argv):
    try:
        rest = flags.FLAGS(argv)
    except (
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        ImportError,
        SyntaxError,
    ) as error:
        _fail(error)
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


def _fail(error):
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)
