"""A converted model that all tests of loading share."""

import pytest

from convert import conversion
from tests.helpers import model_folder


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A converted model, and its PyTorch modules by component."""
    folder = tmp_path_factory.mktemp("original")
    twins = model_folder.build(folder / "model")
    return conversion.convert(str(folder / "model"), folder / "converted"), twins


@pytest.fixture(scope="session")
def converted(built):
    """A converted model, which tests must not change."""
    return built[0]


@pytest.fixture(scope="session")
def twins(built):
    """The PyTorch modules of `converted`, by component."""
    return built[1]
