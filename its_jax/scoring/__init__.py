"""Scores of samples, and statistics over them."""

from its_jax import deprecated

__getattr__ = deprecated.package_getattr(__name__)
