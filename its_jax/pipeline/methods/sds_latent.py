"""Score distillation gradients of a latent diffusion model."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax

from its_jax.diffusion import denoise
from its_jax.models.unet import PrecomputedUNet
from its_jax.models.vae import AutoencoderKL

NOISE_LEVELS = 0.02, 0.98  # first and last timestep that are drawn, as shares of the training timesteps


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentGuide:
    """A latent diffusion model, and the encoder of its latents."""

    unet: PrecomputedUNet
    vae: AutoencoderKL
    alphas_cumprod: Array  # [timesteps] float32

    def gradient(self, term: denoise.Term, scale: Array, image: Array, keys: Array) -> Array:
        """Computes the gradient of 0.5 |z - stop(z - g)|^2 with g = w(t) (eps_hat - eps), w = 1 - alphas_cumprod.

        With respect to z it is g itself, so only the encoder is differentiated.

        Args:
          term: texts, view and windows.
          scale: guidance scales `[b]`.
          image: gray images `[b H W]` in [0, 1].
          keys: random keys `[b]`.

        Returns:
          the gradient with respect to `image`, `[b H W]`.
        """
        posterior_keys, t_keys, eps_keys = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
        low, high = noise_range(self.alphas_cumprod)

        def latent(image, key):
            seen = term.view.apply(jnp.repeat(image[None, :, :, None], 3, axis=-1))
            z = self.vae.encode(seen * 2 - 1).sample(key).astype(jnp.float32) * self.vae.config.scaling_factor
            return term.view.invert(z)[0]

        # One sample after the other, because what the encoder keeps for its gradient takes much memory.
        z = lax.map(lambda sample: latent(*sample), (image, posterior_keys))
        t = jax.vmap(lambda key: jax.random.randint(key, (), low, high + 1))(t_keys)
        eps = jax.vmap(lambda key: jax.random.normal(key, z.shape[1:]))(eps_keys)
        g = sds_gradient(self, term, scale, z, t, eps)

        def pull_back(sample):
            image, key, g = sample
            return jax.vjp(lambda image: latent(image, key), image)[1](g)[0]

        return lax.map(pull_back, (image, posterior_keys, g))


def sds_gradient(model: LatentGuide, term: denoise.Term, scale: Array, z: Array, t: Array, eps: Array) -> Array:
    """Computes g = w(t) (eps_hat - eps), `[b h w c]`: eps_hat is the guided noise in sqrt(a) z + sqrt(1 - a) eps.

    Args:
      scale: guidance scales `[b]`.
      z, eps: `[b h w c]`.
      t: int32 timesteps `[b]`.
    """
    a = model.alphas_cumprod[t][:, None, None, None]
    x = jnp.sqrt(a) * z + jnp.sqrt(1 - a) * eps

    def predict(x, _, text):
        return model.unet.predict_batch(x, jnp.repeat(t, len(x) // len(t)), text)

    term = dataclasses.replace(term, guidance_scale=scale)
    predicted, _ = denoise.guided_noise(predict, x, jnp.int32(0), term)
    return weighted(a, predicted, eps)


def weighted(a: Array, predicted: Array, eps: Array) -> Array:
    """Computes w(t) (eps_hat - eps), `[b h w c]`, with zeros in place of non-finite numbers.

    Args:
      a: alphas_cumprod at t, `[]` or `[b 1 1 1]`.
      predicted, eps: `[b h w c]`.
    """
    g = (1 - a) * (predicted - eps)
    # A model that returns nothing finite at all is broken, which must not pass for a gradient of zero.
    return jnp.where(jnp.isfinite(predicted).any(axis=(1, 2, 3), keepdims=True), jnp.nan_to_num(g), jnp.nan)


def noise_range(alphas_cumprod: Array) -> tuple[int, int]:
    """Returns the first and the last timestep that are drawn."""
    low, high = (round(level * len(alphas_cumprod)) for level in NOISE_LEVELS)
    return low, high
