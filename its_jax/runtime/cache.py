"""The folder in which converted models and compiled programs are kept between runs."""

import os
import pathlib


def cache_folder() -> pathlib.Path:
    """Returns `$ITS_JAX_CACHE`, or `its_jax` in the user's cache folder."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "its_jax"
    return pathlib.Path(os.environ.get("ITS_JAX_CACHE") or default).expanduser().absolute()


def keep_programs() -> None:
    """Lets JAX keep compiled programs in the cache folder, unless the user has set another folder for them."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "programs"))
        # A run has two dozen small programs, each below JAX's default threshold.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
