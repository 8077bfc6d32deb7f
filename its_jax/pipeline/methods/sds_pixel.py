"""Score distillation gradients of a pixel diffusion model.

It has no latents. It sees square crops of the image, resized to the size that it was trained on. The numbers are those
of the authors of Images that Sound, who use DeepFloyd IF's first stage: 8 crops as high as the image, at random places,
all with the noise of one timestep.

    s        side of a resized crop in pixels
    x0       [crops s s 3] crops in [-1, 1]
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax

from its_jax.diffusion import ddpm, denoise
from its_jax.diffusion.views import View
from its_jax.errors import UserError
from its_jax.models.if_unet import PixelText, PixelUNet
from its_jax.pipeline.methods import sds_latent

NUM_CROPS = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PixelGuide:
    """A pixel diffusion model of the first stage; `sds_latent.LatentGuide` is the other kind of guide."""

    unet: PixelUNet
    alphas_cumprod: Array  # [timesteps] float32

    def gradient(self, term: denoise.Term, scale: Array, image: Array, keys: Array) -> Array:
        """Computes the gradient of 0.5 |x0 - stop(x0 - g)|^2 / crops with g = w(t) (eps_hat - eps), `[b H W]`.

        Args:
          term: texts, leaves `[b 2 ...]`, and view.
          scale: guidance scales `[b]`.
          image: `[b H W]` in [0, 1].
          keys: random keys `[b]`.
        """
        low, high = sds_latent.noise_range(self.alphas_cumprod)

        def sample_gradient(sample):
            image, key, text, scale = sample
            key_places, key_t, key_eps = jax.random.split(key, 3)
            side = self.unet.config.sample_size or 0  # `check_model` refuses models without it
            x0, pull_back = jax.vjp(lambda image: random_crops(image, term.view, key_places, side), image)
            t = jax.random.randint(key_t, (), low, high + 1)
            g = self.sds_gradient(text, scale, x0, t, jax.random.normal(key_eps, x0.shape))
            return pull_back(g / len(x0))[0]

        # One sample after the other, because its crops are a batch already.
        return lax.map(sample_gradient, (image, keys, term.texts, scale))

    def sds_gradient(self, text: PixelText, scale: Array, x0: Array, t: Array, eps: Array) -> Array:
        """Computes g of one sample, in the shape of x0.

        Args:
          text: the negative and the positive prompt, leaves `[2 ...]`, or the positive one alone.
          scale: guidance scale.
          t: int32 timestep of all crops.
          eps: the noise that is added, in the shape of x0.
        """
        a = self.alphas_cumprod[t]
        x, prompts = jnp.sqrt(a) * x0 + jnp.sqrt(1 - a) * eps, len(text.embedding)
        text = jax.tree.map(lambda leaf: jnp.tile(leaf, (len(x), *[1] * (leaf.ndim - 1))), text)
        predicted = self.unet.predict(jnp.repeat(x, prompts, axis=0), jnp.full(len(x) * prompts, t), text)
        predicted = predicted.reshape(len(x), prompts, *predicted.shape[1:])
        eps_hat, _ = ddpm.guided_noise(predicted, jnp.full(len(x), scale))
        return sds_latent.weighted(a, eps_hat, eps)


def random_crops(image: Array, view: View, key: Array, side: int) -> Array:
    """Crops a gray image `[H W]` in [0, 1] in the layout of a view: `[NUM_CROPS side side 3]` in [-1, 1]."""
    seen = view.apply(jnp.repeat(image[None, :, :, None], 3, axis=-1))[0]
    size = min(seen.shape[:2])
    last = jnp.array([length - size for length in seen.shape[:2]])
    places = jax.random.randint(key, (NUM_CROPS, 2), 0, last + 1)
    crops = jax.vmap(lambda place: lax.dynamic_slice(seen, (*place, 0), (size, size, 3)))(places)
    return jax.image.resize(crops, (NUM_CROPS, side, side, 3), "linear") * 2 - 1


def check_model(source: str, unet: PixelUNet) -> None:
    """Raises `UserError` for a UNet that cannot guide score distillation."""
    config = unet.config
    if unet.is_upscaler:
        raise UserError(f"{source}: is a second-stage model, which upscales; method='sds' needs a first-stage model")
    if not config.sample_size or config.sample_size % config.multiple:
        raise UserError(
            f"{source}: unet/config.json has sample_size {config.sample_size}; method='sds' needs the side of "
            f"the images that it was trained on, a multiple of {config.multiple}"
        )
