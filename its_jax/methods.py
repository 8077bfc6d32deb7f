"""Methods that the paper's is compared with and that take more than other weights: how they make their samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from its_jax import baselines, stages
from its_jax import jobs as job_settings
from its_jax.noise import torch_noise
from its_jax.sampler import Sampler
from its_jax.views import VIEWS


class Imprinter(Sampler):
    """Each model alone makes a latent of its own; the one's picture is imprinted on the other's spectrogram.

    The latents of a sample are two, in the order of `jobs.TERMS`. Its picture shows what is heard, as `image` sees it.
    """

    _noise_of_seeds = staticmethod(baselines.noises)

    def _noise(self, jobs):
        if jobs[0]["noise"] != "torch":
            return super()._noise(jobs)
        shape = self.latent_shape(jobs[0])
        noises = [np.stack([torch_noise(job["seed"], shape, draw) for job in jobs]) for draw in (0, 1)]
        return self._put(noises, sharded=True)

    def _latents(self, jobs, terms, on_steps):
        runs = zip(*map(job_settings.runs, jobs), strict=True)
        noises = self._noise(jobs)
        made = [self._denoise_batch(run, terms, noise, on_steps) for run, noise in zip(runs, noises, strict=True)]
        latents, failed_at = zip(*made, strict=True)
        return latents, jnp.maximum(*failed_at)

    def _compile_decode(self, latents):
        job, numbers = self._job, [self._abstract((self.batch_size,), dtype) for dtype in (jnp.float32, bool)]
        places = [id(vae) for vae in self.decoders]
        decode = functools.partial(
            _imprinted,
            decoders=[places.index(id(self.models[term].vae)) for term in job_settings.TERMS],
            view=VIEWS[job["image"]["view"]],
            cutoff=job["cutoff_latent"],
            wrap=job["wrap"],
        )
        decode = self._layout.each(decode, (P(), *[P("data")] * 4))
        decode = decode.lower(self.decoders, latents, latents, *numbers)
        self._decode = decode.compile()
        return self._abstract(decode.out_info[0].shape)

    def _shown(self, jobs, latents):
        mag_ratio = np.array([job["mag_ratio"] for job in jobs], np.float32)
        inverse_image = np.array([job["inverse_image"] for job in jobs])
        return self._decode(self.decoders, *latents, *self._put((mag_ratio, inverse_image), sharded=True))


def _imprinted(vaes, *args, decoders, view, cutoff, wrap):
    """The spectrograms `[b, H, W]`, and, in a tuple, the pictures `[b, H, W, 3]`; one sample after the other.

    Args:
      args: latents of picture and spectrogram `[b, h, w, 4]`, mag_ratio `[b]`, inverse_image `[b]`.
      decoders: the place of each latent's VAE in `vaes`.
    """

    def of_sample(sample):
        picture, spectrogram, *numbers = jax.tree.map(lambda a: a[None], sample)
        picture = view.back(_grey(stages.shown(picture, vaes[decoders[0]], view, wrap)))
        spectrogram = _grey(stages.shown(spectrogram, vaes[decoders[1]], VIEWS["identity"], wrap))
        imprinted = stages.in_levels(baselines.imprint(picture[..., 0], spectrogram[..., 0], *numbers))
        return imprinted[0], (jnp.repeat(view.look(imprinted[..., None]), 3, axis=-1)[0],)

    *latents, mag_ratio, inverse_image = args
    if cutoff:
        latents = [z[:, :, : -stages.CROPPED_LATENTS] for z in latents]
    return jax.lax.map(of_sample, (*latents, mag_ratio, inverse_image))


def _grey(picture):
    return picture.mean(axis=-1, keepdims=True)


# Method -> its sampler, where that is not `Sampler` itself.
SAMPLERS = {"imprint": Imprinter}
