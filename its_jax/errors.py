"""The exceptions that users see: their mistakes, and the cancellation of a batch."""

import difflib
import re
import traceback
from collections.abc import Collection, Iterable
from typing import Any

# Errors whose message says what is wrong. Other errors are reported with their line of code.
SELF_EXPLANATORY = AttributeError, TypeError, ValueError, OSError, ImportError, SyntaxError


class UserError(Exception):
    """A user's mistake. Its message is one line that names what is wrong and what would be correct.

    Commands print it on stderr and exit with `status`, without a traceback. Notebooks show the same line.
    """

    status = 2

    def _render_traceback_(self) -> list[str]:
        """Returns the lines that notebooks show instead of a traceback."""
        return [f"error: {self}"]


class DiskFull(UserError):
    """The error that a disk is full. Complete files are kept, and the same command continues the work."""

    status = 3


def check_choice(name: str, value: Any, known: Collection[Any]) -> None:
    """Raises `UserError` unless a setting has one of the known values."""
    if value not in known:
        raise UserError(f"{name}={value!r} is not known here; choose one of {', '.join(known)}")


def unknown_setting(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the message for a setting that is not among `known`, with the nearest known one."""
    return unknown_name("setting", name, known, prefix)


def unknown_name(kind: str, name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the message for a name of this kind that is not among `known`, with the nearest known one."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return f"there is no {kind} {prefix}{name}; {hint}"


def describe_exception(error: Exception, self_explanatory: tuple[type[Exception], ...] = SELF_EXPLANATORY) -> str:
    """Returns in one line what is wrong with a config or another program of the user.

    Messages of ml_collections have several lines with a traceback, of which the last one says what is wrong.

    Args:
      self_explanatory: errors that are reported without their line of code.
    """
    if not isinstance(error, self_explanatory):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{frame.filename}, line {frame.lineno}: {type(error).__name__}: {error}"
    last = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return re.sub(r"^\s*\w+Error: ", "", last)


class Cancelled(Exception):
    """Raised by a callback to cancel the generation of samples, see `its_jax.Pipeline.__call__`.

    Attributes:
      samples: the samples of the batches that were finished before.
    """

    def __init__(self, *args: object):
        super().__init__(*args)
        self.samples: list[Any] = []
