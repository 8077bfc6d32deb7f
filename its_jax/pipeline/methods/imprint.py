"""Imprinting: one model's image darkens the other model's spectrogram."""

import jax
import jax.numpy as jnp
from jax import Array


def imprint(picture: Array, spectrogram: Array, mag_ratio: Array, inverse_image: Array) -> Array:
    """S' = S (1 - mag_ratio I): a spectrogram that is quieter where a picture is bright; inverted, where it is dark.

    Args:
      picture, spectrogram: `[b H W]` in [0, 1], I and S. mag_ratio: `[b]` in [0, 1]. inverse_image: `[b]` bool.
    """
    mag_ratio, inverse_image = mag_ratio[:, None, None], inverse_image[:, None, None]
    return spectrogram * (1 - mag_ratio * jnp.where(inverse_image, 1 - picture, picture))


def two_noises(seeds: Array, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Standard normal float32 `[b *shape]`, twice, from uint32 seeds `[b]`: for the picture and the spectrogram."""

    def of_seed(seed):
        picture, spectrogram = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
        return jax.random.normal(picture, shape), jax.random.normal(spectrogram, shape)

    return jax.vmap(of_seed)(seeds)
