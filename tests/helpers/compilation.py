"""Compilation without optimizations, for programs that run for milliseconds."""

import contextlib

import jax


@contextlib.contextmanager
def few_optimizations():
    """Compiles without most optimizations.

    An optimized program gives other bits, and JAX keeps what it compiled whatever the option was. Therefore what was
    compiled before is forgotten, and so is afterwards what was compiled here.
    """
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
        jax.clear_caches()
