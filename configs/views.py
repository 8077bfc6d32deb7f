"""Several views of the same spectrogram, with the embedded models.

    python -m its_jax.sample --config=configs/views.py:upside_down --workdir=out
    python -m its_jax.sample --config=configs/views.py:square --workdir=out

`upside_down` is one image upright, another one when turned upside down, and a sound: image.png and upside_down.png show
both images. `square` is a square image whose upper and lower halves lie side by side in the spectrogram. 4 samples take
about a minute on 2 CPU cores. Any further term can be added in the same way.
"""

from ml_collections import ConfigDict

from its_jax.runtime.config_files import shipped


def _upside_down(config):
    # With these settings the judges of its_jax/tiny found both images and the audio right in 6 of 8 samples.
    config.image.prompt = "a painting of mushrooms, grayscale"
    config.image.weight = 0.42
    config.upside_down = ConfigDict(config.image.to_dict())
    config.upside_down.prompt = "a painting of trees, grayscale"
    config.upside_down.weight = 0.3
    config.upside_down.view = "rotate_180"
    config.audio.prompt = "frog croaking"
    config.audio.weight = 0.25


def _square(config):
    config.image.view = "block_rearrange"
    config.image.weight = 0.7
    config.audio.weight = 0.3


ARGUMENTS = {"upside_down": _upside_down, "square": _square}


def get_config(example="upside_down"):
    if example not in ARGUMENTS:
        raise ValueError(f"configs/views.py has no example {example!r}; choose one of {', '.join(ARGUMENTS)}")
    config = shipped("default")["get_config"]()
    ARGUMENTS[example](config)
    return config
