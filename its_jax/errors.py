"""The one exception that stands for a user's mistake rather than a bug of ours."""


class UserError(Exception):
    """Bad input: its message is one line that names what is wrong and what would be right.

    Entry points print it on stderr and exit with `status`, without a traceback.
    """

    status = 2


class DiskFull(UserError):
    """A file could not be written for want of space; what is complete is kept, and the same command goes on."""

    status = 3
