"""Colors for finished samples: a pixel model adds the colors of the subject, and the gray of the spectrogram stays.

    python -m its_jax.colorize --workdir=out
    python -m its_jax.colorize --workdir=out --config=configs/colorize.py:deepfloyd

Writes WORKDIR/ID/color_00.png, color_01.png, ... for each sample, the settings of each beside it, and a video. The first
command is for samples of the embedded models. It uses an embedded model, which knows their subjects. The second one is the
paper's, by both stages of DeepFloyd IF. Their weights (about 30 GB with the text encoder) are downloaded once, after you
have accepted their license on the hub. With --config.colorize.method=latent, which does not need them, the image model
that made the sample colorizes it.
"""

from ml_collections import ConfigDict

MODELS = ("tiny", "deepfloyd")


def get_config(models="tiny"):
    if models not in MODELS:
        raise ValueError(f"configs/colorize.py has no {models!r}; choose one of {', '.join(MODELS)}")
    tiny = models == "tiny"
    config = ConfigDict()
    config.colorize = colorize = ConfigDict()
    colorize.method = "factorized"  # by a pixel model in one or two stages; or "latent"
    # {subject} stands for the sample's own prompt for the image, without its style.
    colorize.prompt = "a colorful photo of {subject}"
    colorize.negative_prompt = ""
    colorize.trials = 4 if tiny else 16  # images of each sample, to choose from
    colorize.seed = 0  # of the first trial; the next ones have seed + 1, seed + 2, ...
    colorize.stage_1 = "tiny/color" if tiny else "DeepFloyd/IF-I-M-v1.0"  # its text encoder serves both stages
    # "": no second stage; the image of the first one is enlarged.
    colorize.stage_2 = "" if tiny else "DeepFloyd/IF-II-M-v1.0"
    colorize.latent_model = ""  # of method "latent"; "": the model that made the sample
    colorize.guidance_scale = 4.0 if tiny else 10.0
    colorize.num_steps = 30
    colorize.start_step = 7  # the first stage begins here, with the noised gray image
    colorize.latent_start_step = 13  # method "latent" begins here; a later step keeps more of the shapes
    colorize.noise_level = 50  # timestep of the noise in the small image that the second stage takes
    colorize.reduction = 4  # by how much the image of the first stage is smaller, in height and width
    # Wider images are colorized in overlapping windows of this many pixels; 0: in one piece.
    colorize.window = 512 if tiny else 0
    colorize.dtype = "float32" if tiny else "bfloat16"  # or "float16"
    colorize.batch_size = 0  # images at once; 0: all trials of a sample, and fewer if they do not fit in memory
    colorize.videos = 1  # of each sample's first trials
    return config
