"""Small random models, settings and work folders for the tests of colorization."""

import pathlib
import runpy

import pytest

from convert import conversion
from its_jax.colorize.settings import ColorSettings
from tests.helpers import model_folder, pixel_folder
from tests.helpers.colorization import SMALL, write_samples

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "colorize.py"


@pytest.fixture(scope="package")
def pixel_twins(tmp_path_factory):
    """The folder and the PyTorch modules of both stages."""
    folder = tmp_path_factory.mktemp("pixel")
    return {stage: (folder / f"{stage}", pixel_folder.build(folder / f"{stage}", stage)) for stage in (1, 2)}


@pytest.fixture(scope="package")
def pixel_models(pixel_twins, tmp_path_factory):
    """The folders of both stages, converted."""
    out = tmp_path_factory.mktemp("converted")
    return {
        f"stage_{stage}": str(conversion.convert(str(folder), out / f"{stage}"))
        for stage, (folder, _) in pixel_twins.items()
    }


@pytest.fixture(scope="package")
def latent_model(tmp_path_factory):
    """The folder of a latent model, converted."""
    folder = tmp_path_factory.mktemp("latent")
    model_folder.build(folder / "source", vocoder=False)
    return str(conversion.convert(str(folder / "source"), folder / "model"))


@pytest.fixture(scope="package")
def default_settings():
    """The settings of the config, for a few steps."""
    return runpy.run_path(str(CONFIG))["get_config"]().colorize.to_dict() | SMALL


@pytest.fixture(scope="package")
def color_settings(default_settings, pixel_models, latent_model):
    """Makes settings with the small models: `color_settings(trials=1)`."""

    def make(**changes):
        raw = default_settings | pixel_models | {"latent_model": latent_model} | changes
        return ColorSettings.from_dict(raw)

    return make


@pytest.fixture
def workdir(tmp_path):
    """A folder with two finished samples."""
    write_samples(tmp_path / "out")
    return tmp_path / "out"
