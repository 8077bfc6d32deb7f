"""The folder in which converted models and compiled programs are kept between runs."""

import os
import pathlib
from typing import Any


def cache_folder() -> pathlib.Path:
    """Returns `$ITS_JAX_CACHE`, or `its_jax` in the user's cache folder."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "its_jax"
    return pathlib.Path(os.environ.get("ITS_JAX_CACHE") or default).expanduser().absolute()


def keep_programs() -> None:
    """Makes JAX keep compiled programs in the cache folder, unless the user has set another folder for them."""
    import jax

    config: Any = jax.config  # mypy does not see its attributes.
    if not config.jax_compilation_cache_dir:
        config.update("jax_compilation_cache_dir", str(cache_folder() / "programs"))
        # A run has two dozen small programs, each of which compiles in less than the default threshold.
        config.update("jax_persistent_cache_min_compile_time_secs", 0)
