"""The embedded models: trees that sound like a train's whistle. Nothing is downloaded.

    python -m its_jax.sample --config=configs/default.py --workdir=out

Makes 4 samples of 128 x 512 pixels (5.1 s of sound) in under a minute on 2 CPU cores. Any key can be set from the
shell: --config.image.prompt="a drawing of sailing boats" --config.audio.prompt="siren wailing" --config.seed=7
Other subjects and sounds: a word that the models do not know gets a warning that lists those they do.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.method = "fused"  # or, to compare: "image_only", "audio_only", "alternating", "imprint", "sds"
    config.seed = 0  # of the first sample; the next ones have seed + 1, seed + 2, ...
    config.num_samples = 4
    config.batch_size = 0  # samples at once; 0: chosen from the memory
    config.devices_per_sample = 1  # or one for each model, or two: quicker where few samples have many devices
    config.noise = "jax"  # or "torch": as PyTorch on a CPU draws it in float16
    config.num_steps = 25
    config.solver = "dpmpp_2m"  # or "ddim" or "euler"
    # The inner layers of the UNets are evaluated at every n-th step, and their outputs are reused in between.
    config.cache_interval = 1
    config.height = 128  # pixels = mel bands
    config.width = 512  # pixels = frames of 10 ms
    config.window = 512  # a wider canvas is denoised in windows of this many pixels; 0: all at once
    config.wrap = False  # a loop: the end leads into the beginning
    config.dtype = "float32"  # or "bfloat16" or "float16"
    config.crop_image = False  # drop the last 32 columns (0.32 s)
    config.cutoff_latent = False  # drop them before decoding instead
    config.vocoder = "hifigan"  # or "griffin_lim"
    config.video = True

    # Start from a file in place of noise alone: "FILE.png" (any picture) or "FILE.wav" (any sound).
    config.init_image = ""
    config.init_audio = ""
    config.strength = 1.0  # the share of the steps that are made: less stays nearer to that file
    config.keep = ""  # what stays as in that file, in seconds or Hz, such as "0-1.5s, 200-800Hz"

    # Each model's share of every step: noise = sum of weight * guided noise / sum of weights.
    config.image = ConfigDict()
    config.image.model = "tiny/image"
    config.image.prompt = "a painting of trees, grayscale"
    config.image.negative_prompt = ""
    config.image.guidance_scale = 4.0
    # The first step with guidance, and the first without again; -1: to the end.
    config.image.guidance_start_step = 0
    config.image.guidance_stop_step = -1
    # The view of the spectrogram: "identity"; "block_rearrange", whose halves, side by side, are those of a square
    # picture, one above the other; "flip_horizontal", "flip_vertical"; "rotate_90", "rotate_180", "rotate_270"
    config.image.view = "identity"
    config.image.start_step = 2  # the first step, of num_steps, at which this model takes part
    config.image.stop_step = -1  # the first step at which it takes no part any more; -1: to the end
    config.image.weight = 0.6
    config.image.turn = 1  # method "alternating": consecutive steps of this model's turn

    config.audio = ConfigDict()
    config.audio.model = "tiny/audio"
    config.audio.prompt = "train whistling"
    config.audio.negative_prompt = ""
    config.audio.guidance_scale = 4.0
    config.audio.guidance_start_step = 0
    config.audio.guidance_stop_step = -1
    config.audio.view = "identity"
    config.audio.start_step = 0
    config.audio.stop_step = -1
    config.audio.weight = 0.4
    config.audio.turn = 1
    return config
