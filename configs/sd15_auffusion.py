"""Stable Diffusion 1.5 and Auffusion with the settings of the paper's authors, 256 x 1024 pixels, 10.24 s of audio.

    python -m its_jax.sample --config=configs/sd15_auffusion.py:tiger --workdir=out

The argument selects one of the published examples (see EXAMPLES; the default is bell). `fast`, or `tiger+fast`, takes
fewer steps (see FAST). The first run downloads both models (about 10 GB) from the hub and converts them once, which
takes as much space again. One sample takes 309 TFLOP, which suits a GPU or TPU; a CPU needs 10 to 25 minutes. The
success rate of the method is low, so generate many samples and choose among them.
"""

from ml_collections import ConfigDict, FieldReference

# The authors' published examples: image prompt, audio prompt, seed, samples.
EXAMPLES = {
    "bell": ("a painting of castle towers, grayscale", "bell ringing", 1234, 100),
    "corgi": ("a painting of corgis, grayscale, black background", "dog barking", 2034, 50),
    "dog": ("a painting of cute dogs, grayscale", "dog barking", 1234, 100),
    "garden": (
        "a painting of a blooming garden with many birds, grayscale",
        "birds singing sweetly",
        1234,
        100,
    ),
    "garden-v2": ("a painting of a blooming garden, grayscale", "birds singing sweetly", 1234, 100),
    "horse": ("a painting of horse heads, grayscale, black background", "horse neighing", 1234, 1000),
    "kitten": ("a painting of furry kittens, grayscale", "a kitten meowing for attention", 1234, 100),
    "pond": ("a pond full of water lilies, grayscale, lithograph style", "frog croaking", 2024, 100),
    "race": (
        "a painting of auto racing game, grayscale",
        "a race car passing by and disappearing",
        1234,
        100,
    ),
    "tiger": ("a painting of tigers, grayscale", "tiger growling", 1234, 100),
    "train": ("a painting of trains, grayscale", "train whistling", 1234, 100),
}


# A quarter of the work. Judges find 86 % of the embedded models' samples right in both image and audio, and 90 % with
# 100 steps of DDIM (README, Speed).
FAST = {"solver": "dpmpp_2m", "num_steps": 25, "image.start_step": 2}
ARGUMENTS = (*EXAMPLES, "fast", *(f"{name}+fast" for name in EXAMPLES))


def get_config(example="bell"):
    name, _, last = example.rpartition("+")
    fast = last == "fast"
    example = name or "bell" if fast else example
    if example not in EXAMPLES:
        raise ValueError(
            f"configs/sd15_auffusion.py has no example {example!r}; choose one of {', '.join(EXAMPLES)}, alone or with "
            "+fast after it"
        )
    image_prompt, audio_prompt, seed, num_samples = EXAMPLES[example]
    config = ConfigDict()
    config.method = "fused"  # or, to compare: "image_only", "audio_only", "alternating", "imprint", "sds"
    config.seed = seed  # of the first sample; the following ones have seed + 1, seed + 2, ...
    config.num_samples = num_samples
    config.batch_size = 0  # samples per batch; 0: as many as fit in memory
    config.devices_per_sample = 1  # or one or two per model, which is faster for few samples on many devices
    config.noise = "torch"  # the authors' noise, the float16 noise of PyTorch on a CPU; or "jax"
    config.num_steps = 100
    config.solver = "ddim"  # or "dpmpp_2m" or "euler"
    # The inner layers of the UNets are evaluated at every n-th step, and their output is reused in between (DeepCache).
    config.cache_interval = 1
    config.height = 256  # pixels = mel bands
    config.width = 1024  # pixels = frames of 10 ms
    config.window = 1024  # a wider canvas is denoised in windows of this many pixels; 0: all at once
    config.wrap = False  # True: a seamless loop, whose end continues at its beginning
    config.dtype = "bfloat16"  # or "float32" or "float16"
    config.crop_image = True  # drop the last 32 columns (0.32 s), which Auffusion leaves black
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

    config.image = ConfigDict()
    config.image.model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    config.image.prompt = image_prompt
    config.image.negative_prompt = ""
    config.image.guidance_scale = 10.0
    # Guidance is on from the first of these steps until the second; -1: until the end.
    config.image.guidance_start_step = 0
    config.image.guidance_stop_step = -1
    # How the model sees the spectrogram: "identity"; "block_rearrange", which stacks the left half on the right half to
    # form a square image; "flip_horizontal", "flip_vertical"; "rotate_90", "rotate_180", "rotate_270"
    config.image.view = "identity"
    config.image.start_step = 10  # the first of the num_steps steps at which this model is active
    config.image.stop_step = -1  # the first step at which it is no longer active; -1: active until the end
    config.image.weight = 0.5
    config.image.turn = 1  # for method "alternating": its number of steps in a row

    config.audio = ConfigDict()
    config.audio.model = "auffusion/auffusion-full-no-adapter"
    config.audio.prompt = audio_prompt
    config.audio.negative_prompt = ""
    config.audio.guidance_scale = 10.0
    config.audio.guidance_start_step = 0
    config.audio.guidance_stop_step = -1
    config.audio.view = "identity"
    config.audio.start_step = 0
    config.audio.stop_step = -1
    config.audio.weight = 0.5
    config.audio.turn = 1
    if fast:
        config.update_from_flattened_dict(FAST)
    return config
