"""`python -m convert --source=FOLDER_OR_HUB_ID --out=FOLDER`: see `convert.convert`."""

import sys

from absl import app, flags, logging

from convert import convert
from its_jax.errors import UserError

_SOURCE = flags.DEFINE_string(
    "source", None, "Model folder in diffusers' layout, or a hub id.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Folder to make, or an earlier conversion to replace.", required=True)


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.INFO)
    try:
        out = convert(_SOURCE.value, _OUT.value)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    logging.info("converted %s into %s", _SOURCE.value, out)


if __name__ == "__main__":
    app.run(main)
