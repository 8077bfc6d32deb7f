"""Score distillation by a model of pixels: it has no latents, and is shown square crops of the picture, at its size.

The numbers are those of the authors of Images that Sound, who ask DeepFloyd IF's first stage: 8 crops as high as the
picture, at random places, all with the noise of one timestep.

    s        pixels of a crop's side, as the model was trained; crops are resized to it
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
    """A diffusion model of pixels, of the first stage; `its_jax.pipeline.methods.sds_latent.LatentGuide` is the other kind."""

    unet: PixelUNet
    alphas_cumprod: Array  # [timesteps] float32

    def gradient(self, term: denoise.Term, scale: Array, picture: Array, keys: Array) -> Array:
        """That of 0.5 |x0 - stop(x0 - g)|^2 / crops with g = w(t) (eps_hat - eps), w = 1 - alphas_cumprod, `[b H W]`.

        Args:
          term: texts, leaves `[b 2 ...]`, and view. scale: `[b]`, of guidance. picture: `[b H W]`. keys: `[b]`.
        """
        low, high = sds_latent.noise_range(self.alphas_cumprod)

        def of_sample(sample):
            picture, key, text, scale = sample
            of_places, of_t, of_eps = jax.random.split(key, 3)
            side = self.unet.config.sample_size
            x0, pull_back = jax.vjp(lambda picture: crops(picture, term.view, of_places, side), picture)
            t = jax.random.randint(of_t, (), low, high + 1)
            g = self.asked_for(text, scale, x0, t, jax.random.normal(of_eps, x0.shape))
            return pull_back(g / len(x0))[0]

        # One sample after the other: its crops are a batch already.
        return lax.map(of_sample, (picture, keys, term.texts, scale))

    def asked_for(self, text: PixelText, scale: Array, x0: Array, t: Array, eps: Array) -> Array:
        """g of one sample, like x0.

        Args:
          text: of negative and positive prompt, leaves `[2 ...]`, or of the positive one alone. scale: of guidance.
          t: int32.
        """
        a = self.alphas_cumprod[t]
        x, ways = jnp.sqrt(a) * x0 + jnp.sqrt(1 - a) * eps, len(text.embedding)
        text = jax.tree.map(lambda leaf: jnp.tile(leaf, (len(x), *[1] * (leaf.ndim - 1))), text)
        predicted = self.unet.predict(jnp.repeat(x, ways, axis=0), jnp.full(len(x) * ways, t), text)
        predicted = predicted.reshape(len(x), ways, *predicted.shape[1:])
        eps_hat, _ = ddpm.guided_noise(predicted, jnp.full(len(x), scale))
        return sds_latent.weighted(a, eps_hat, eps)


def crops(picture: Array, view: View, key: Array, side: int) -> Array:
    """Of a grey picture `[H W]` in [0, 1], as a view shows it: `[COUNT side side 3]` in [-1, 1]."""
    seen = view.apply(jnp.repeat(picture[None, :, :, None], 3, axis=-1))[0]
    size = min(seen.shape[:2])
    furthest = jnp.array([length - size for length in seen.shape[:2]])
    places = jax.random.randint(key, (NUM_CROPS, 2), 0, furthest + 1)
    cut = jax.vmap(lambda place: lax.dynamic_slice(seen, (*place, 0), (size, size, 3)))(places)
    return jax.image.resize(cut, (NUM_CROPS, side, side, 3), "linear") * 2 - 1


def check_model(source: str, unet: PixelUNet) -> None:
    """Raises `UserError` for the UNet of a model, or its outline, that cannot be asked."""
    config = unet.config
    if unet.enlarges:
        raise UserError(f"{source}: is a model of the second stage, which enlarges; method='sds' asks the first")
    if not config.sample_size or config.sample_size % config.multiple:
        raise UserError(
            f"{source}: unet/config.json has sample_size {config.sample_size}; method='sds' needs the side of "
            f"the pictures that it was trained on, a multiple of {config.multiple}"
        )
