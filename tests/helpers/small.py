"""Fixtures of tests that make samples: small models, converted, and a config for them."""

import os
import pathlib
import runpy

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from convert import conversion
from its_jax.settings.parse import read_settings
from its_jax.settings.schema import TERMS
from tests.helpers import model_folder
from tests.helpers.compilation import few_optimizations

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "default.py"
SMALL = {"num_samples": 3, "batch_size": 2, "num_steps": 4, "solver": "ddim", "height": 12, "width": 48}
SMALL |= {"image.start_step": 1, "audio.start_step": 0, "video": False}


@pytest.fixture(scope="module")
def quick_programs(tmp_path_factory):
    """Compiles programs with little effort, as they run for milliseconds, and keeps them for all test processes."""
    cache = tmp_path_factory.mktemp("cache")
    base = tmp_path_factory.getbasetemp()
    programs = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    options = {"jax_persistent_cache_min_compile_time_secs": 0, "jax_compilation_cache_dir": str(programs)}
    before = {name: jax.config.values[name] for name in options}
    with few_optimizations(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITS_JAX_CACHE", str(cache))
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # these variables are for processes that tests start
        for name, value in options.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # else a folder that is named after the first compilation is not used
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two models in diffusers' layout."""
    folder = tmp_path_factory.mktemp("sources")
    model_folder.build(folder / "image", seed=0, vocoder=False)
    model_folder.build(folder / "audio", seed=1)
    return folder


@pytest.fixture(scope="module")
def models(sources, tmp_path_factory):
    """The same, converted."""
    folder = tmp_path_factory.mktemp("models")
    return {f"{term}.model": str(conversion.convert(str(sources / term), folder / term)) for term in TERMS}


@pytest.fixture(scope="module")
def small(models):
    """Makes a config: `small({"image.prompt": "a cat"}, seed=1)`."""

    def get(change=None, **more):
        config = runpy.run_path(str(CONFIG))["get_config"]()
        config.update_from_flattened_dict(SMALL | models | (change or {}) | more)
        return config.lock()

    return get


@pytest.fixture(scope="module")
def expand(small):
    """Returns the settings of samples, with changes of the small config."""
    return lambda *change, **more: read_settings(small(*change, **more).to_dict())[0]
