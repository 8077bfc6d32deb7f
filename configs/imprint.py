"""A baseline: the picture of one model, imprinted on the spectrogram of another. Nothing is downloaded.

    python -m its_jax.sample --config=configs/imprint.py --workdir=out
    python -m its_jax.sample --config=configs/imprint.py:tiger --workdir=out

Each model makes a sample of its own; the spectrogram is then made quieter where the picture is bright (or, inverted,
dark). 4 samples of the embedded models take half a minute on 2 CPU cores. With a published example as its argument
(those of configs/sd15_auffusion.py) it is Stable Diffusion 1.5 and Auffusion with the numbers of the paper's authors.
"""

import pathlib
import runpy


def _config(name, *argument):
    return runpy.run_path(str(pathlib.Path(__file__).with_name(f"{name}.py")))["get_config"](*argument)


def get_config(example=None):
    config = _config("default") if example is None else _config("sd15_auffusion", example)
    config.method = "imprint"
    config.inverse_image = True  # the picture's dark parts are made quieter, in place of its bright ones
    config.mag_ratio = 0.5  # how much: 0 is not at all, 1 down to silence
    config.image.num_steps = 0  # of its own run; 0: as `num_steps` says
    config.audio.num_steps = 0
    if example is not None:
        config.image.num_steps = 50
        config.image.guidance_scale = config.audio.guidance_scale = 7.5
    return config
