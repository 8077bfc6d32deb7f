"""Blind comparisons by people: `python -m its_jax.versus --workdir=A --workdir=B --out=FOLDER`.

Writes FOLDER/index.html, which shows pairs of samples of the same prompts, asks which one looks and which one sounds
more like them, and saves the answers as a file; and FOLDER/key.json, which says which sample is whose and must be kept
from the participants. With the files of answers in FOLDER, `python -m its_jax.versus --answers=FOLDER` prints win
rates.
"""

import logging
from pathlib import Path

from absl import flags

from its_jax.errors import UserError
from its_jax.runtime import cli

_WORKDIR = flags.DEFINE_multi_string("workdir", [], "A folder of samples; twice or more, or once with --by.")
_BY = flags.DEFINE_string("by", "", "The setting whose values are compared instead of folders, as --by=method.")
_OUT = flags.DEFINE_string("out", None, "A new folder for the page.")
_PAIRS = flags.DEFINE_integer("pairs", 30, "The number of pairs for each two that are compared.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "The seed of the random choice and order of samples.")
_ANSWERS = flags.DEFINE_string("answers", None, "The folder of a page, with answers-*.json in it: prints win rates.")


def main() -> None:
    """Writes a study over two work folders, or counts the answers to one."""
    if bool(_WORKDIR.value) == bool(_ANSWERS.value) or bool(_WORKDIR.value) != bool(_OUT.value):
        raise UserError("give either --workdir=A --workdir=B --out=FOLDER or --answers=FOLDER")
    from its_jax.storage.files import write_json
    from its_jax.versus import study  # It takes long to import, as NumPy does.

    if _ANSWERS.value:
        rates = study.tally(Path(_ANSWERS.value))
        write_json(Path(_ANSWERS.value) / "win_rates.json", {"rates": rates})
        print(study.rates_table(rates))
    elif _OUT.value:
        path = study.write(_WORKDIR.value, Path(_OUT.value), pairs=_PAIRS.value, seed=_SEED.value, by=_BY.value)
        logging.info("%s", path.absolute())


if __name__ == "__main__":
    cli.run(main)
