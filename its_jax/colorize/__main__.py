"""Colours for finished samples: `python -m its_jax.colorize --workdir=out --config.colorize.prompt="a photo of ..."`.

Writes color_00.png, color_01.png, ... into the folder of each sample (WORKDIR/colors/ID where samples are in tar
files), each with its settings in color_00.json; a video of the first, with the coloured picture above the spectrogram;
and the gallery anew. The mean of a coloured picture's channels is the spectrogram's picture. A second run with the same
settings makes only what is missing; other settings, or more trials, add pictures.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from its_jax.errors import UserError
from its_jax.runtime import cli
from its_jax.storage import files

_DEFAULT = Path(__file__).parents[2] / "configs" / "colorize.py"  # which an installed wheel lacks

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Settings: configs/colorize.py, or your own.", lock_config=True, allow_override=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "A folder that its_jax.sample or its_jax.sweep wrote to.", required=True, allow_override=True
)
_SELECT = flags.DEFINE_string(
    "select", "all", "Which samples: all, starred (of WORKDIR/starred.txt, as the gallery exports it), or ID,ID."
)


def main():
    if _CONFIG.value is None:
        raise UserError("give --config=FILE.py, such as configs/colorize.py")
    run(_CONFIG.value, files.to_path(_WORKDIR.value), _SELECT.value)


def run(config, workdir, select="all"):
    """Colours the finished samples of `workdir` that `select` names, see configs/colorize.py."""
    from its_jax.colorize.settings import Settings

    settings = config.to_dict()
    if "colorize" not in settings:
        raise UserError("the config has no group colorize; start from configs/colorize.py")
    how = Settings.read(settings["colorize"])
    from its_jax.colorize import (
        run as colorize_run,  # slow, as JAX is: what is wrong with flags and settings is said before
    )

    colorize_run.run(how, workdir, select)


if __name__ == "__main__":
    cli.run(main, config=_DEFAULT if _DEFAULT.exists() else None)
