"""Colorizes finished samples: `python -m its_jax.colorize --workdir=out --config.colorize.prompt="a photo of ..."`.

Writes color_00.png, color_01.png, ... into the folder of each sample (into WORKDIR/colors/ID if samples are in tar
files), the settings of each into color_00.json, ..., a video of the first one, in which the colored image is above the
spectrogram, and the gallery. The mean of the channels of a colored image is the spectrogram. A second run with the same
settings generates only what is missing. Other settings, or more trials, add images.
"""

from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import config_flags

from its_jax.colorize.settings import ColorSettings
from its_jax.errors import UserError
from its_jax.runtime import cli
from its_jax.settings.fields import field_docs
from its_jax.storage import files

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Settings: the shipped colorize or colorize:deepfloyd, or your own.",
    lock_config=True,
    allow_override=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "out", "A folder that its_jax.sample or its_jax.sweep wrote to.", allow_override=True
)
_SELECT = flags.DEFINE_string(
    "select", "all", "Which samples: all, starred (of WORKDIR/starred.txt, as the gallery exports it), or ID,ID."
)


def main() -> None:
    """Colors the samples of a work folder, as the flags say."""
    config = _CONFIG.value.to_dict()
    if "colorize" not in config:
        raise UserError("the config has no group colorize; start from the config colorize")
    settings = ColorSettings.from_dict(config["colorize"])
    # JAX is slow to import, so wrong settings are reported before.
    from its_jax.colorize.run import run

    run(settings, files.to_path(_WORKDIR.value), _SELECT.value)


def _docs(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns a line of documentation for each setting."""
    return {f"colorize.{name}": doc for name, doc in field_docs(ColorSettings).items()}


if __name__ == "__main__":
    cli.run(main, config="colorize", docs=_docs)
