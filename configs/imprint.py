"""A baseline: the image of one model, imprinted on the spectrogram of another. Nothing is downloaded.

    python -m its_jax.sample --config=configs/imprint.py --workdir=out
    python -m its_jax.sample --config=configs/imprint.py:tiger --workdir=out

Each model generates a sample independently. The spectrogram is then attenuated where the image is bright (or, inverted,
dark). 4 samples of the embedded models take half a minute on 2 CPU cores. With a published example of
configs/sd15_auffusion.py as argument, it uses Stable Diffusion 1.5 and Auffusion with the settings of the authors.
"""

from its_jax.runtime.config_files import shipped

AUTHORS = shipped("sd15_auffusion")
ARGUMENTS = tuple(AUTHORS["EXAMPLES"])


def get_config(example=None):
    config = shipped("default")["get_config"]() if example is None else AUTHORS["get_config"](example)
    config.method = "imprint"
    config.inverse_image = True  # attenuates the dark parts of the image instead of the bright ones
    config.mag_ratio = 0.5  # the attenuation: 0 is none, 1 is silence
    config.image.num_steps = 0  # of its run; 0: `num_steps`
    config.audio.num_steps = 0
    if example is not None:
        config.image.num_steps = 50
        config.image.guidance_scale = config.audio.guidance_scale = 7.5
    return config
