"""Colours for finished samples: DeepFloyd IF paints what the spectrogram shows, and its grey stays as it is.

    python -m its_jax.colorize --workdir=out --config.colorize.prompt="a colorful photo of castle towers"

Writes WORKDIR/ID/color_00.png, color_01.png, ... for each sample, with what each was made with beside it, and a video.
IF's weights (about 30 GB with their text encoder) are downloaded once; its licence must be accepted on the hub before.
Without them: --config.colorize.method=latent colours by the latent image model that made the sample.
"""

from ml_collections import ConfigDict

STAGE_1, STAGE_2 = "DeepFloyd/IF-I-M-v1.0", "DeepFloyd/IF-II-M-v1.0"


def get_config():
    config = ConfigDict()
    config.colorize = colorize = ConfigDict()
    colorize.method = "factorized"  # by a model of pixels in two stages; or "latent"
    # {subject}: what the sample's own prompt for the picture says, without its style.
    colorize.prompt = "a colorful photo of {subject}"
    colorize.negative_prompt = ""
    colorize.trials = 16  # pictures of each sample, to pick from
    colorize.seed = 0  # of the first trial; the next ones have seed + 1, seed + 2, ...
    colorize.stage_1 = STAGE_1  # its text encoder is that of both
    colorize.stage_2 = STAGE_2  # "": none; the colours of the small picture are enlarged
    colorize.latent_model = ""  # of method "latent"; "": the one that made the sample
    colorize.guidance_scale = 10.0
    colorize.num_steps = 30
    colorize.start_step = 7  # the first stage begins here, with the noised grey picture
    colorize.noise_level = 50  # timestep of the noise in the small picture that the second stage is given
    colorize.reduction = 4  # height and width of the first stage's picture are so many times smaller
    colorize.window = 0  # wider pictures are coloured in overlapping windows of so many pixels; 0: all at once
    colorize.dtype = "float32"  # or "bfloat16" or "float16"
    colorize.batch_size = 0  # pictures at once; 0: all trials of a sample, and fewer where the memory wants it
    colorize.videos = 1  # of each sample's first trials
    return config
