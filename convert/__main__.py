"""`python -m convert --source=FOLDER_OR_HUB_ID --out=FOLDER`: see `convert.convert`."""

import logging

from absl import flags

from convert import convert
from its_jax import cli

_SOURCE = flags.DEFINE_string("source", None, "Model folder in diffusers' layout, or a hub id.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to make, or an earlier conversion to replace.", required=True)


def main():
    out = convert(_SOURCE.value, _OUT.value)
    logging.info("converted %s into %s", _SOURCE.value, out)


if __name__ == "__main__":
    cli.start(main)
