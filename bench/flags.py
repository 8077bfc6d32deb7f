"""Flags of the commands here, for argparse: what is wrong with one is told in a line, before anything is measured."""

import argparse
import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from its_jax.errors import UserError
from its_jax.runtime import cli


def names(known: Collection[str]) -> Callable[[str], list[str]]:
    """A type of flag: names with commas between."""

    def parse(text):
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not among {', '.join(known)}")
        return text.split(",")

    return parse


def at_least(least: int) -> Callable[[str], int]:
    """A type of flag: a whole number."""

    def parse(text):
        if not (text.isdecimal() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"{text!r}: must be a number of {least} or more")
        return int(text)

    return parse


def counts(text: str) -> list[int]:
    """A type of flag: numbers of 0 or more."""
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: must be numbers of 0 or more with commas between")
    return [int(part) for part in text.split(",")]


def sizes(text: str) -> list[int]:
    """A type of flag: numbers of 1 or more."""
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: must be numbers of 1 or more with commas between")
    return [int(part) for part in text.split(",")]


@contextlib.contextmanager
def told(parser: argparse.ArgumentParser) -> Iterator[None]:
    """A `UserError` inside is one line on stderr and exit status 2."""
    try:
        yield
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


def make_folder(flag: str, folder: Path, *, new: bool = False) -> None:
    """Raises `UserError`: it cannot be made, or is there although it must be `new`."""
    try:
        folder.mkdir(parents=True, exist_ok=not new)
    except OSError as error:
        raise UserError(f"{flag}={folder}: cannot be made ({error.strerror})") from error


def check_out(out: Path | None) -> None:
    """Makes the folder of `--out`. `UserError`: no file can be written there."""
    if out is not None:
        cli.check_out(out)
