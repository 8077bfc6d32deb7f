"""Imprinting: each model alone makes a latent; one's image darkens the other's spectrogram."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from its_jax.checkpoints.model import Model
from its_jax.diffusion.views import VIEWS, View
from its_jax.pipeline import decoding
from its_jax.pipeline.components import Components, Requirements
from its_jax.pipeline.denoiser import Denoiser
from its_jax.pipeline.methods.base import Generated
from its_jax.pipeline.placement import DataParallel
from its_jax.pipeline.progress import OnProgress
from its_jax.settings.schema import TERMS, SampleSettings
from its_jax.settings.steps import denoising_runs, first_step, total_steps


def imprint(image: Array, spectrogram: Array, mag_ratio: Array, inverse_image: Array) -> Array:
    """Computes S' = S (1 - mag_ratio I): the spectrogram gets quieter where the image is bright.

    Args:
      image, spectrogram: `[b H W]` in [0, 1], I and S.
      mag_ratio: `[b]` in [0, 1].
      inverse_image: bool `[b]`: whether the spectrogram gets quieter where the image is dark instead.
    """
    mag_ratio, inverse_image = mag_ratio[:, None, None], inverse_image[:, None, None]
    return spectrogram * (1 - mag_ratio * jnp.where(inverse_image, 1 - image, image))


def two_noises(seeds: Array, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Draws standard normal float32 `[b *shape]` twice from uint32 seeds `[b]`, for the image and the spectrogram."""

    def draw(seed):
        image, spectrogram = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
        return jax.random.normal(image, shape), jax.random.normal(spectrogram, shape)

    return jax.vmap(draw)(seeds)


class Imprint:
    """Denoises two latents per sample, one by each model, and imprints the image on the spectrogram. See `base.Method`.

    The latents of a sample are two, in the order of `TERMS`. Its image shows what is heard, as `image` sees it.
    """

    requirements = Requirements()

    def __init__(
        self,
        settings: SampleSettings,
        components: Components,
        texts: Mapping[str, Any],
        batch_size: int,
        workdir: Path | None = None,
    ):
        place = self._placement = components.placement
        self._vaes = components.vaes
        self._denoiser = Denoiser(settings, components, texts, batch_size, draw=two_noises)
        index = {id(vae): i for i, vae in enumerate(self._vaes)}
        decode = functools.partial(
            decode_imprinted,
            vae_of_term=[index[id(components.models[term].vae)] for term in TERMS],
            view=VIEWS[settings.terms["image"].view],
            cutoff=settings.cutoff_latent,
            wrap=settings.wrap,
        )
        latents = self._denoiser.latents
        numbers = [place.abstract((batch_size,), dtype) for dtype in (jnp.float32, bool)]
        decode = place.jit_per_device(decode, (P(), *[P("data")] * 4))
        lowered = decode.lower(self._vaes, latents, latents, *numbers)
        self._decode = lowered.compile()
        self.spectrogram = place.abstract(lowered.out_info[0].shape)
        self.programs = {"denoise": self._denoiser.program, "decode": self._decode}

    @staticmethod
    def check(models: Mapping[str, Model], placement: DataParallel) -> None:
        pass

    def generate(self, batch: Sequence[SampleSettings], texts: Mapping[str, Any], on_progress: OnProgress) -> Generated:
        if batch[0].noise == "torch":
            noises = [self._denoiser.torch_noise(batch, draw) for draw in (0, 1)]
        else:
            noises = self._denoiser.noise(batch)
        latents: list[Array] = []
        failed_at, done = [], 0
        for run, noise in zip(zip(*map(denoising_runs, batch), strict=True), noises, strict=True):
            preview = functools.partial(self._preview, batch, tuple(latents))
            latent, failed = self._denoiser(run, texts, noise, on_progress, preview, done, total_steps(batch[0]))
            latents.append(latent)
            failed_at.append(failed)
            done += run[0].num_steps - first_step(run[0])
        return Generated(tuple(latents), jnp.maximum(*failed_at))

    def render(self, batch: Sequence[SampleSettings], latents: Any) -> tuple[Array, tuple[Array, ...]]:
        mag_ratio = np.array([settings.mag_ratio for settings in batch], np.float32)
        inverse_image = np.array([settings.inverse_image for settings in batch])
        numbers = self._placement.put((mag_ratio, inverse_image), sharded=True)
        return self._decode(self._vaes, *latents, *numbers)

    def _preview(self, batch, finished, latent):
        """Decodes the imprint as it stands; while the image is denoised, it stands in for the spectrogram too."""
        _, images = self.render(batch, (*finished, latent, latent)[:2])
        return list(np.asarray(images[0]))


def decode_imprinted(
    vaes: Sequence[Any], *args: Array, vae_of_term: Sequence[int], view: View, cutoff: bool, wrap: bool
) -> tuple[Array, tuple[Array, ...]]:
    """Decodes and imprints, one sample after the other to save memory.

    Args:
      vaes: the VAEs of the models. vae_of_term: for image and audio, the index of its VAE in `vaes`.
      args: latents of image and spectrogram `[b, h, w, 4]`, mag_ratio `[b]`, inverse_image `[b]`.

    Returns:
      the spectrograms `[b, H, W]`, and a tuple of the images `[b, H, W, 3]`.
    """

    def decode(sample):
        image, spectrogram, *numbers = jax.tree.map(lambda a: a[None], sample)
        image = view.invert(_gray(decoding.render_view(image, vaes[vae_of_term[0]], view, wrap)))
        spectrogram = _gray(decoding.render_view(spectrogram, vaes[vae_of_term[1]], VIEWS["identity"], wrap))
        imprinted = decoding.quantize(imprint(image[..., 0], spectrogram[..., 0], *numbers))
        return imprinted[0], (jnp.repeat(view.apply(imprinted[..., None]), 3, axis=-1)[0],)

    *latents, mag_ratio, inverse_image = args
    if cutoff:
        latents = [z[:, :, : -decoding.CROPPED_LATENTS] for z in latents]
    return jax.lax.map(decode, (*latents, mag_ratio, inverse_image))


def _gray(image):
    return image.mean(axis=-1, keepdims=True)
