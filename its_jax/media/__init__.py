"""Image, audio and video files with settings in them. No jax."""

from its_jax import deprecated

__getattr__ = deprecated.package_getattr(__name__)
