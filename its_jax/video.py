"""A video of a finished sample: `python -m its_jax.media WORKDIR/ID`.

Writes WORKDIR/ID/video.mp4 or, where samples are in tar files, WORKDIR/videos/ID.mp4. With --color=color_03, that of a
coloured picture: WORKDIR/ID/color_03.mp4 or WORKDIR/colors/ID/color_03.mp4.
"""

import logging

from absl import flags

from its_jax.colorize import outputs
from its_jax.errors import UserError
from its_jax.media import video
from its_jax.runtime import cli
from its_jax.settings.schema import TERMS
from its_jax.storage import files, samples

_COLOR = flags.DEFINE_string("color", "", "One of the sample's coloured pictures, such as color_00.")


def main(place):
    logging.info("%s", run(place, _COLOR.value))


def run(place, color=""):
    """Makes the video of the sample WORKDIR/ID, or of one of its coloured pictures, and returns its path.

    Raises:
      UserError: no such sample or picture; cannot write.
    """
    sample = samples.open_sample(place)
    path = samples.video(sample, color)
    if color:
        _of_colors(sample, color)
        return path
    prompts = (sample.record[term]["prompt"] for term in TERMS)
    with files.explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    video.write_video(path, sample.picture(), *sample.waveform(), *prompts, settings=dict(sample.record))
    return path


def _of_colors(sample, color):
    if color not in sample.colors:
        there = ", ".join(sample.colors) or "none; its_jax.colorize makes them"
        raise UserError(f"--color={color}: {sample.id} has no such coloured picture; it has {there}")
    outputs.write_video(sample, color, sample.picture(color), sample.color_record(color))


if __name__ == "__main__":
    cli.run(main, "WORKDIR/ID")
