"""The embedded models: trees that sound like a train whistle. Nothing is downloaded.

    python -m its_jax.sample --config=configs/default.py --workdir=out

Generates 4 samples of 128 x 512 pixels (5.1 s of audio) in under a minute on 2 CPU cores. Any key can be set from the
shell: --config.image.prompt="a drawing of sailing boats" --config.audio.prompt="siren wailing" --config.seed=7
To find other subjects and sounds, use any word: a warning lists the words that the models know.
"""

from ml_collections import ConfigDict, FieldReference


def get_config():
    config = ConfigDict()
    config.method = "fused"  # or, to compare: "image_only", "audio_only", "alternating", "imprint", "sds"
    config.seed = 0  # of the first sample; the following ones have seed + 1, seed + 2, ...
    config.num_samples = 4
    config.batch_size = 0  # samples per batch; 0: as many as fit in memory
    config.devices_per_sample = 1  # or one or two per model, which is faster for few samples on many devices
    config.noise = "jax"  # or "torch": the float16 noise of PyTorch on a CPU
    config.num_steps = 25
    config.solver = "dpmpp_2m"  # or "ddim" or "euler"
    # The inner layers of the UNets are evaluated at every n-th step, and their output is reused in between (DeepCache).
    config.cache_interval = 1
    config.height = 128  # pixels = mel bands
    config.width = 512  # pixels = frames of 10 ms
    config.window = 512  # a wider canvas is denoised in windows of this many pixels; 0: all at once
    config.wrap = False  # True: a seamless loop, whose end continues at its beginning
    config.dtype = "float32"  # or "bfloat16" or "float16"
    config.crop_image = False  # drop the last 32 columns (0.32 s)
    config.cutoff_latent = False  # drop them before decoding instead
    config.vocoder = "hifigan"  # or "griffin_lim"
    config.video = True
    # LUFS of written sounds, -40 to 0; None: as generated. (The type `object` accepts both from the shell.)
    config.loudness = FieldReference(-16.0, field_type=object)

    # Start from a file instead of pure noise: "FILE.png" (any image) or "FILE.wav" (any audio).
    config.init_image = ""
    config.init_audio = ""
    config.strength = 1.0  # the fraction of the steps that are run; less stays closer to that file
    config.keep = ""  # the parts of that file to keep, in seconds or Hz, such as "0-1.5s, 200-800Hz"

    # At each step: noise = sum of weight * guided noise / sum of weights.
    config.image = ConfigDict()
    config.image.model = "tiny/image"
    config.image.prompt = "a painting of trees, grayscale"
    config.image.negative_prompt = ""
    config.image.guidance_scale = 4.0
    # Guidance is on from the first of these steps until the second; -1: until the end.
    config.image.guidance_start_step = 0
    config.image.guidance_stop_step = -1
    # How the model sees the spectrogram: "identity"; "block_rearrange", which stacks the left half on the right half to
    # form a square image; "flip_horizontal", "flip_vertical"; "rotate_90", "rotate_180", "rotate_270"
    config.image.view = "identity"
    config.image.start_step = 2  # the first of the num_steps steps at which this model is active
    config.image.stop_step = -1  # the first step at which it is no longer active; -1: active until the end
    config.image.weight = 0.6
    config.image.turn = 1  # for method "alternating": its number of steps in a row

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
