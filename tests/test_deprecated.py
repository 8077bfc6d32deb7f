"""Old names of public modules, functions and attributes: they warn, and are the same objects as the new ones."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from its_jax import deprecated
from its_jax.media import images
from its_jax.scoring import item, ranking
from its_jax.scoring.item import Item
from its_jax.settings.ids import sample_id
from its_jax.storage import samples
from tests.helpers import finished_samples
from tests.helpers.sample_settings import default_settings

# Modules that the docs named, for programs to import.
DOCUMENTED = {"samples", "ranking", "metrics", "jobs", "grid", "store", "signing", "load", "denoise", "noise", "flops"}


def resolve(place):
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def test_every_documented_module_keeps_its_old_name():
    assert {f"its_jax.{name}" for name in DOCUMENTED} == deprecated.MODULES.keys()


@pytest.mark.parametrize("old", sorted(deprecated.MODULES))
def test_an_old_module_warns_once_and_names_the_new_one(old):
    name, new = old.rpartition(".")[2], deprecated.MODULES[old][0]
    program = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        f"    from its_jax import {name}\n"
        f"    import {old}\n"
        "ours = [warning for warning in caught if 'its_jax' in str(warning.message)]\n"
        "print(len(ours), ours[0].category.__name__, ours[0].filename, ours[0].message)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    message = f"{old} is deprecated and will be removed in the next version: use {new}"
    assert done.stdout.startswith(f"1 DeprecationWarning <string> {message}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("old", sorted(deprecated.MODULES))
def test_attributes_of_an_old_module_are_the_new_objects(old):
    new, renamed = deprecated.MODULES[old]
    module = importlib.import_module(old)
    for name, place in renamed.items():
        assert getattr(module, name) is resolve(place if ":" in place else f"{new}:{place}")
    public = [name for name in vars(importlib.import_module(new)) if name[0] != "_" and name not in renamed]
    assert public and all(getattr(module, name) is resolve(f"{new}:{name}") for name in public)


@pytest.mark.parametrize(
    ("package", "name", "place"),
    [(package, *pair) for package, names in deprecated.FUNCTIONS.items() for pair in names.items()],
)
def test_an_old_function_of_a_package_warns_and_is_the_new_object(package, name, place):
    with pytest.warns(DeprecationWarning, match=f"^{package}.{name} is deprecated .*: use {place.replace(':', '.')}$"):
        assert getattr(importlib.import_module(package), name) is resolve(place)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_names_can_be_imported_from_their_modules():
    from its_jax.media import png
    from its_jax.ranking import top
    from its_jax.samples import open, setting
    from its_jax.scoring import Item

    assert (open, setting) == (samples.open_samples, samples.get_setting)
    assert (png, top, Item) == (images.png, ranking.best_on_all, item.Item)


def test_names_that_never_existed_are_errors():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("its_jax.nothing")
    for module in ("its_jax.media", "its_jax.scoring"):
        with pytest.raises(AttributeError, match="nothing"):
            _ = importlib.import_module(module).nothing


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_id_of_a_dictionary_of_settings_is_that_of_the_settings():
    from its_jax import jobs

    settings = default_settings()
    assert jobs.job_id(settings) == jobs.job_id(settings.to_dict()) == sample_id(settings)


def test_old_attributes_of_a_finished_sample_warn_and_work(tmp_path):
    finished_samples.write(tmp_path, [finished_samples.record()])
    (sample,) = samples.open_samples(tmp_path).values()
    with pytest.warns(DeprecationWarning, match="Sample.picture is deprecated .*: use Sample.read_image"):
        np.testing.assert_array_equal(sample.picture("image"), sample.read_image("image"))
    with pytest.warns(DeprecationWarning, match="Sample.place is deprecated"):
        assert sample.place == sample.path
    with pytest.raises(AttributeError, match="nothing"):
        _ = sample.nothing


def test_the_old_settings_of_a_scorers_item_warn_and_work():
    settings = default_settings()
    item = Item(settings, {}, np.zeros((8, 8), np.float32), np.zeros(80, np.float32), 16000)
    with pytest.warns(DeprecationWarning, match="Item.job is deprecated .*: use Item.settings"):
        assert item.job == settings.to_dict()


def test_importing_its_jax_imports_no_slow_module():
    program = "import its_jax, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"jax", "numpy", "absl", "PIL", "flax"} & set(done.stdout.split())
