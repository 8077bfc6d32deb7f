"""Colors for finished samples: a model of pixels paints what the spectrogram shows, and its gray stays as it is.

    python -m its_jax.colorize --workdir=out
    python -m its_jax.colorize --workdir=out --config=configs/colorize.py:deepfloyd

Writes WORKDIR/ID/color_00.png, color_01.png, ... for each sample, with what each was made with beside it, and a video.
The first is for samples of the embedded models, by an embedded model, which knows their subjects. The second is the
paper's, by both stages of DeepFloyd IF: their weights (about 30 GB with the text encoder) are downloaded once; their
license must be accepted on the hub before. Without them: --config.colorize.method=latent colors by the latent image
model that made the sample.
"""

from ml_collections import ConfigDict

MODELS = ("tiny", "deepfloyd")


def get_config(models="tiny"):
    if models not in MODELS:
        raise ValueError(f"configs/colorize.py has no {models!r}; choose one of {', '.join(MODELS)}")
    tiny = models == "tiny"
    config = ConfigDict()
    config.colorize = colorize = ConfigDict()
    colorize.method = "factorized"  # by a model of pixels in two stages; or "latent"
    # {subject}: what the sample's own prompt for the picture says, without its style.
    colorize.prompt = "a colorful photo of {subject}"
    colorize.negative_prompt = ""
    colorize.trials = 4 if tiny else 16  # pictures of each sample, to pick from
    colorize.seed = 0  # of the first trial; the next ones have seed + 1, seed + 2, ...
    colorize.stage_1 = "tiny/color" if tiny else "DeepFloyd/IF-I-M-v1.0"  # its text encoder is that of both
    # "": none; the colors of the small image are upsampled.
    colorize.stage_2 = "" if tiny else "DeepFloyd/IF-II-M-v1.0"
    colorize.latent_model = ""  # of method "latent"; "": the one that made the sample
    colorize.guidance_scale = 4.0 if tiny else 10.0
    colorize.num_steps = 30
    colorize.start_step = 7  # the first stage begins here, with the noised gray picture
    colorize.latent_start_step = 13  # so does method "latent": the later, the more of the picture's shapes it keeps
    colorize.noise_level = 50  # timestep of the noise in the small picture that the second stage is given
    colorize.reduction = 4  # height and width of the first stage's image are divided by this
    # Wider images are colored in overlapping windows of this many pixels; 0: all at once.
    colorize.window = 512 if tiny else 0
    colorize.dtype = "float32" if tiny else "bfloat16"  # or "float16"
    colorize.batch_size = 0  # pictures at once; 0: all trials of a sample, and fewer where the memory wants it
    colorize.videos = 1  # of each sample's first trials
    return config
