"""A video of a finished sample: `python -m its_jax.media WORKDIR/ID`.

Writes WORKDIR/ID/video.mp4 or, where samples are in tar files, WORKDIR/videos/ID.mp4.
"""

import logging

from its_jax import cli, files, jobs, media, samples


def main(place):
    logging.info("%s", run(place))


def run(place):
    """Makes the video of the sample WORKDIR/ID and returns its path. UserError: no such sample; cannot write."""
    sample = samples.one(place)
    prompts = (sample.record[term]["prompt"] for term in jobs.TERMS)
    path = samples.video(sample)
    with files.reasons(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    media.write_video(path, sample.picture(), *sample.waveform(), *prompts, settings=dict(sample.record))
    return path


if __name__ == "__main__":
    cli.start(main, "WORKDIR/ID")
