"""What the method is compared with, as far as it is arithmetic: two models in turn, and one's picture imprinted on the
other's spectrogram."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def in_turn(weights: np.ndarray, turns, first: int = 0) -> np.ndarray:
    """Weights under which the terms alternate: of each step one has all, as artists did before the paper.

    In their order terms have `turns` steps in a row. One that takes no part leaves its step to the next that does.

    Args:
      weights: `[terms b steps]`, 0 where a term takes no part, see `denoise.term_weights`.
      turns: `[terms b]` >= 1. first: the step at which denoising begins, and the first turn.

    Returns:
      float32 `[terms b steps]`, 1 for the term whose turn it is.
    """
    ends, terms = np.cumsum(turns, axis=0), np.arange(len(weights))[:, None, None]
    place = (np.arange(weights.shape[-1]) - first) % ends[-1][:, None]
    owner = (place >= ends[..., None]).sum(axis=0)
    takers = (owner + terms) % len(terms)  # in the order in which a step is offered
    taken = np.take_along_axis(weights > 0, takers, axis=0).argmax(axis=0)
    return ((terms == (owner + taken) % len(terms)) & (weights > 0)).astype(np.float32)


def imprint(picture: Array, spectrogram: Array, mag_ratio: Array, inverse_image: Array) -> Array:
    """S' = S (1 - mag_ratio I): a spectrogram that is quieter where a picture is bright; inverted, where it is dark.

    Args:
      picture, spectrogram: `[b H W]` in [0, 1], I and S. mag_ratio: `[b]` in [0, 1]. inverse_image: `[b]` bool.
    """
    mag_ratio, inverse_image = mag_ratio[:, None, None], inverse_image[:, None, None]
    return spectrogram * (1 - mag_ratio * jnp.where(inverse_image, 1 - picture, picture))


def noises(seeds: Array, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Standard normal float32 `[b *shape]`, twice, from uint32 seeds `[b]`: for the picture and the spectrogram."""

    def of_seed(seed):
        picture, spectrogram = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
        return jax.random.normal(picture, shape), jax.random.normal(spectrogram, shape)

    return jax.vmap(of_seed)(seeds)
