"""A video of a finished sample: `python -m its_jax.video WORKDIR/ID`.

Writes WORKDIR/ID/video.mp4 or, where samples are in tar files, WORKDIR/videos/ID.mp4. With --color=color_03, it writes
the video of a colored image: WORKDIR/ID/color_03.mp4 or WORKDIR/colors/ID/color_03.mp4. With --animation=FILE.webp or
FILE.gif, it writes a looping picture with a moving playhead and without sound, for pages that cannot show a video.
"""

import logging
from pathlib import Path

from absl import flags

from its_jax.runtime import cli

_COLOR = flags.DEFINE_string("color", "", "One of the sample's colored images, such as color_00.")
_ANIMATION = flags.DEFINE_string("animation", "", "Write a looping picture to this .webp or .gif file, not a video.")


def main(path: str) -> None:
    """Writes the video of a sample, or its animation."""
    if _ANIMATION.value:
        write_animation(path, _ANIMATION.value, _COLOR.value)
        logging.info("%s", _ANIMATION.value)
    else:
        logging.info("%s", write_video(path, _COLOR.value))


def write_video(path: str | Path, color: str = "") -> Path:
    """Writes the video of the sample WORKDIR/ID, or of one of its colored images, and returns its path.

    Raises:
      UserError: the sample or the image does not exist, or the video cannot be written.
    """
    from its_jax.colorize import outputs  # These take long to import, as NumPy does.
    from its_jax.media import videos
    from its_jax.settings.schema import TERMS
    from its_jax.storage import files, samples

    sample = samples.open_sample(path)
    video_path = samples.video_path(sample, color)
    if color:
        outputs.check_colored(sample, color)
        outputs.write_video(sample, color, sample.read_image(color), sample.coloring_record(color))
        return video_path
    prompts = (sample.record[term]["prompt"] for term in TERMS)
    with files.explain_os_errors(video_path):
        video_path.parent.mkdir(parents=True, exist_ok=True)
    videos.write_video(video_path, sample.read_image(), *sample.read_audio(), *prompts, settings=dict(sample.record))
    return video_path


def write_animation(path: str | Path, animation: str | Path, color: str = "") -> None:
    """Writes the sample WORKDIR/ID, or one of its colored images, as a looping picture under a moving playhead.

    Args:
      animation: the file to write, .webp or .gif.

    Raises:
      UserError: the sample or the image does not exist, or the file has another suffix or cannot be written.
    """
    from its_jax.colorize import outputs
    from its_jax.media import animations
    from its_jax.settings.schema import TERMS
    from its_jax.storage import samples

    sample = samples.open_sample(path)
    if color:
        outputs.check_colored(sample, color)
    waveform, sampling_rate = sample.read_audio()
    image = sample.read_image(color) if color else sample.read_image()
    prompts = (sample.record[term]["prompt"] for term in TERMS)
    animations.write_animation(animation, image, len(waveform) / sampling_rate, *prompts)


if __name__ == "__main__":
    cli.run(main, "WORKDIR/ID")
