"""A method is one class and one entry: this one is added from outside the package."""

import jax.numpy as jnp
import numpy as np
import pytest

from its_jax import Pipeline, UserError
from its_jax.pipeline import decoding
from its_jax.pipeline.components import Requirements
from its_jax.pipeline.methods.base import Generated, method_class
from its_jax.pipeline.progress import Progress
from its_jax.settings.methods import METHODS, MethodSpec, refuse

pytestmark = pytest.mark.usefixtures("quick_programs")


class Ramp:
    """Draws a brightness that rises to the right, by the seed of each sample; ignores all models but the vocoder."""

    requirements = Requirements()

    def __init__(self, settings, components, texts, batch_size, workdir=None):
        self._size = settings.height, settings.width
        self.spectrogram = components.placement.abstract((batch_size, *self._size))
        self.programs = {}

    @staticmethod
    def check(models, placement):
        if placement.devices_per_sample > 1:
            raise UserError("method='ramp' has one device")

    def generate(self, batch, texts, on_progress):
        brightness = jnp.array([settings.seed for settings in batch], jnp.float32) / 10
        on_progress(Progress(1, 1, lambda: []))
        return Generated(brightness, jnp.full(len(batch), -1))

    def render(self, batch, latents):
        ramp = jnp.broadcast_to(jnp.linspace(0, 1, self._size[1]), self._size)
        spectrogram = decoding.quantize(latents[:, None, None] * ramp)
        return spectrogram, (jnp.repeat(spectrogram[..., None], 3, axis=-1),)


@pytest.fixture
def ramp(monkeypatch):
    spec = MethodSpec(
        implementation=f"{__name__}:Ramp",
        denoises=False,
        check=lambda settings: refuse(settings, "init_image"),
    )
    monkeypatch.setitem(METHODS, "ramp", spec)


def test_a_method_from_outside_generates_samples(ramp, small):
    pipe = Pipeline.from_settings(small().to_dict())
    first, second = pipe(method="ramp", seed=[2, 8])
    np.testing.assert_allclose(second.spectrogram.max(), 0.8, atol=1 / 255)
    assert (np.diff(first.spectrogram, axis=1) >= 0).all() and first.spectrogram.max() < second.spectrogram.max()
    assert "ramp" == first.settings.method and first.id != pipe(seed=2, num_steps=2)[0].id


def test_a_method_from_outside_shares_no_program_with_another(ramp, small):
    pipe = Pipeline.from_settings(small().to_dict())
    pipe(seed=2)  # compiles the programs of the method `fused`
    (sample,) = pipe(method="ramp", seed=2)
    np.testing.assert_allclose(sample.spectrogram.max(), 0.2, atol=1 / 255)


def test_the_settings_of_a_method_are_checked_by_its_own_rule(ramp, small):
    with pytest.raises(UserError, match="init_image=.*method='ramp' does not use it"):
        Pipeline.from_settings(small({"init_image": str(__file__)}).to_dict() | {"method": "ramp"})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_class(name):
    assert method_class(name).requirements
