"""A model folder that all tests of conversion share, and a cache folder of each test's own."""

import shutil

import pytest

from convert import conversion
from tests.helpers import conversions, model_folder


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A model folder, and its PyTorch modules by component."""
    folder = tmp_path_factory.mktemp("original") / "model"
    return folder, model_folder.build(folder)


@pytest.fixture(scope="session")
def original(built):
    """A model folder, which tests must not change."""
    return built[0]


@pytest.fixture(scope="session")
def twins(built):
    """The PyTorch modules of `original`, by component."""
    return built[1]


@pytest.fixture(scope="session")
def original_hashes(original, tmp_path_factory):
    """The hashes of the converted components of `original`."""
    return conversions.hashes(conversion.convert(str(original), tmp_path_factory.mktemp("converted") / "model"))


@pytest.fixture
def source(original, tmp_path):
    """A copy of `original`, which a test may change."""
    return shutil.copytree(original, tmp_path / "model")


@pytest.fixture
def vae_only(source):
    """A copy of `original` whose only component is the VAE."""
    for component in ("unet", "text_encoder", "vocoder"):
        shutil.rmtree(source / component)
    return source


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of cached conversions, a new one for each test."""
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"
