"""Settings of samples for tests: those of configs/default.py with changes."""

import dataclasses
import pathlib
import runpy

from its_jax.settings.parse import expand
from its_jax.settings.schema import SampleSettings

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "default.py"


def default_settings(changes=None, **more) -> SampleSettings:
    """Returns the settings of the first sample; changes are by full name, such as `image.prompt`."""
    config = runpy.run_path(str(CONFIG))["get_config"]()
    with config.unlocked():
        config.update_from_flattened_dict((changes or {}) | more)
    return expand(config.to_dict(), 1)[0]


def replace_in_term(settings: SampleSettings, term: str, **changes) -> SampleSettings:
    """Returns the settings with some of a term's replaced; they are not validated."""
    terms = {**settings.terms, term: dataclasses.replace(settings.terms[term], **changes)}
    return dataclasses.replace(settings, terms=terms)
