"""Colors for finished samples: a pixel model colors the image in the spectrogram and keeps its gray values.

    python -m its_jax.colorize --workdir=out
    python -m its_jax.colorize --workdir=out --config=configs/colorize.py:deepfloyd

Writes WORKDIR/ID/color_00.png, color_01.png, ... for each sample, with a JSON file of the settings next to each, and a
video. The first command is for samples of the embedded models and uses an embedded model, which knows their subjects.
The second uses both stages of DeepFloyd IF, like the paper. Their weights (about 30 GB with the text encoder) are
downloaded once, and their license must be accepted on the hub first. --config.colorize.method=latent does without them
and colors with the latent image model that generated the sample.
"""

from ml_collections import ConfigDict

ARGUMENTS = ("tiny", "deepfloyd")


def get_config(models="tiny"):
    if models not in ARGUMENTS:
        raise ValueError(f"configs/colorize.py has no {models!r}; choose one of {', '.join(ARGUMENTS)}")
    tiny = models == "tiny"
    config = ConfigDict()
    config.colorize = colorize = ConfigDict()
    colorize.method = "factorized"  # a pixel model in two stages; or "latent"
    # {subject} is the subject of the sample's image prompt, without its style.
    colorize.prompt = "a colorful photo of {subject}"
    colorize.negative_prompt = ""
    colorize.trials = 4 if tiny else 16  # images per sample, to choose from
    colorize.seed = 0  # of the first trial; the following ones have seed + 1, seed + 2, ...
    colorize.stage_1 = "tiny/color" if tiny else "DeepFloyd/IF-I-M-v1.0"  # its text encoder serves both stages
    # "": no second stage; the colors of the small image are upsampled.
    colorize.stage_2 = "" if tiny else "DeepFloyd/IF-II-M-v1.0"
    colorize.latent_model = ""  # for method "latent"; "": the one that generated the sample
    colorize.guidance_scale = 4.0 if tiny else 10.0
    colorize.num_steps = 30
    colorize.start_step = 7  # the first stage begins here, from the noised gray image
    colorize.latent_start_step = 13  # for method "latent"; later steps keep more of the shapes
    colorize.noise_level = 50  # timestep of the noise that is added to the input of the second stage
    colorize.reduction = 4  # height and width are divided by this number in the first stage
    # Wider images are colored in overlapping windows of this many pixels; 0: all at once.
    colorize.window = 512 if tiny else 0
    colorize.dtype = "float32" if tiny else "bfloat16"  # or "float16"
    colorize.batch_size = 0  # images per batch; 0: all trials of a sample, or as many as fit in memory
    colorize.videos = 1  # number of trials per sample that get a video
    return config
