"""Generates images that sound: `python -m its_jax.sample --config=configs/default.py --workdir=out`.

Writes WORKDIR/<id>/ with image.png, spectrogram.png, audio.wav, video.mp4 and, last, sample.json, and an image for each
further view among the config's terms; and WORKDIR/gallery.html, a page with all samples. A second run with the same
settings generates only the missing samples. `--from=FILE` (one of those files, except the video) regenerates a sample.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from its_jax import gallery
from its_jax.errors import UserError
from its_jax.runtime import cli
from its_jax.settings.parse import read_settings
from its_jax.settings.schema import setting_docs

if TYPE_CHECKING:
    from its_jax.pipeline.pipeline import Pipeline

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Settings: a shipped config (its-jax configs lists them), or your own.",
    lock_config=True,
    allow_override=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "out", "Folder for the samples; created if it does not exist.", allow_override=True
)
_FROM = flags.DEFINE_string("from", None, "A PNG, WAV or sample.json of its_jax: regenerates that sample.")


def main(pipeline: "Pipeline | None" = None) -> None:
    """Generates the samples of the flags, with this pipeline in place of a new one."""
    if (_CONFIG.value is None) == (_FROM.value is None):
        raise UserError("give either --config or --from=FILE.png|FILE.wav|sample.json")
    if _FROM.value is not None:
        run_again(Path(_FROM.value), Path(_WORKDIR.value), pipeline)
    else:
        run(_CONFIG.value, Path(_WORKDIR.value), pipeline)


def run(config: Any, workdir: Path, pipeline: "Pipeline | None" = None) -> None:
    """Generates the samples of a config that are missing in `workdir`.

    Args:
      config: a ConfigDict, see configs/default.py.
      pipeline: an `its_jax.Pipeline` to use in place of a new one.

    Raises:
      UserError: a setting is wrong, or some samples could not be generated (all others are written).
    """
    requested, options = read_settings(config.to_dict())
    # Wrong settings are reported before these slow imports.
    from its_jax.generate.samples import write_samples
    from its_jax.pipeline.pipeline import Pipeline

    if write_samples(pipeline or Pipeline(), requested, workdir, options):
        logging.info("gallery: %s", gallery.write(workdir))


def run_again(file: Path, workdir: Path, pipeline: "Pipeline | None" = None) -> None:
    """Generates the sample whose settings `file` holds again.

    Raises:
      UserError: the file holds no settings of a sample, or the sample could not be generated.
    """
    from its_jax.generate.reproduce import reproduce
    from its_jax.pipeline.pipeline import Pipeline

    reproduce(pipeline or Pipeline(), file, workdir)


if __name__ == "__main__":
    cli.run(main, config="default", config_unless="from", docs=setting_docs)
