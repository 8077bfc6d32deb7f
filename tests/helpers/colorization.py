"""Helpers for the tests of colorization: sizes, finished samples, and a colorizer without models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.colorize import run
from its_jax.colorize.colorizer import Colorizer
from its_jax.pipeline.placement import DataParallel, data_mesh
from its_jax.storage import samples
from tests.helpers import finished_samples

HEIGHT, WIDTH = 14, 50  # not multiples of what the models take
SMALL = {"num_steps": 3, "start_step": 1, "latent_start_step": 1}
SMALL |= {"trials": 2, "window": 0, "guidance_scale": 2.0, "videos": 0, "batch_size": 2}


def on_devices(count):
    """Returns a placement on the first devices."""
    return DataParallel(data_mesh(jax.devices()[:count]))


def load(*args):
    """Loads models on one device, so that a batch may be of any size."""
    return run.load_colorizer(*args, placement=on_devices(1))


class FakeColorizer(Colorizer):
    """Gives each seed its own color.

    Args of the constructor:
      max_batch: larger batches do not fit in memory. is_finite: whether images are.
    """

    def __init__(self, settings, latent_model, prompts, *, max_batch=100, is_finite=True):
        super().__init__(settings, on_devices(1))
        self.multiple, self.num_steps = 8, settings.num_steps
        self.identities = {"stage_1": "fake"}
        self._max_batch, self._scale = max_batch, 1.0 if is_finite else jnp.nan

    def encode(self, prompts):
        return list(prompts)

    def generate(self, batch):
        if len(batch.gray) > self._max_batch:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        colors = [np.random.default_rng(int(seed)).uniform(size=3) for seed in batch.seeds]
        batch.on_steps(self.num_steps)
        return self._scale * jnp.asarray(np.array(colors, np.float32)[:, None, None, :])


def colorize(settings, workdir, select="all", load=load):
    run.run(settings, workdir, select, load=load)


colorize_with_fake = functools.partial(colorize, load=FakeColorizer)


def write_samples(workdir, count=2, layout="folders", *, height=HEIGHT, width=WIDTH, **settings):
    """Writes finished samples with the seeds 1, 2, ..."""
    canvas = {"width": width, "height": height}
    records = [finished_samples.record(canvas | {"seed": 1 + i} | settings) for i in range(count)]
    return finished_samples.write(workdir, records, layout, width=width, height=height, seconds=0.3)


def colored_images(workdir):
    """Reads the colored images of all samples, by id and name."""
    return {
        (sample.id, name): sample.read_image(name)
        for sample in samples.open_samples(workdir).values()
        for name in sample.colorings
    }


def assert_gray_is_kept(workdir):
    """Checks that the mean of the channels of each colored image is the spectrogram, and that there is color."""
    for sample in samples.open_samples(workdir).values():
        assert sample.colorings
        for name in sample.colorings:
            image = sample.read_image(name)
            assert np.abs(image.mean(axis=-1) - sample.read_image()).max() <= 1 / 255
            assert np.ptp(image, axis=-1).max() > 0.1
