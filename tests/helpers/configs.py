"""The settings of configs/default.py with changes, for tests."""

import pathlib
import runpy

from its_jax.settings.parse import expand

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


def get_config(name, *argument):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](*argument)


def settings(**change):
    """Returns the dictionary of configs/default.py with changes; `image__weight=1` sets one of a term."""
    config = get_config("default")
    with config.unlocked():
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in change.items()})
    return config.to_dict()


def default_settings(**change):
    (one,) = expand(settings(**change), 1)
    return one


def record_of(one, **more):
    """A record with the groups that reproducing needs."""
    run = {"batch_size": 4, "position": 3, "video": True}
    return one.to_dict() | {"run": run, "models": {}, "versions": {}} | more
