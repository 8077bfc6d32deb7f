"""Methods that the paper's is compared with and that take more than other weights: how they make their samples."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from its_jax import pretrained
from its_jax.diffusion.torch_noise import torch_noise
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.models import backends
from its_jax.models.if_unet import PixelUNet
from its_jax.pipeline import decoding, prompts, t5_embeddings
from its_jax.pipeline.methods import imprint, sds_latent, sds_loop, sds_pixel
from its_jax.pipeline.methods.resume import SAVE_SECONDS, ResumeState
from its_jax.pipeline.sampler import Sampler
from its_jax.settings.ids import sample_id
from its_jax.settings.schema import TERMS, SampleSettings
from its_jax.settings.steps import active_steps, denoising_runs, guided_steps, image_terms, term_prompts
from its_jax.storage import files


class Imprinter(Sampler):
    """Each model alone makes a latent of its own; the one's picture is imprinted on the other's spectrogram.

    The latents of a sample are two, in the order of `jobs.TERMS`. Its picture shows what is heard, as `image` sees it.
    """

    _noise_of_seeds = staticmethod(imprint.two_noises)

    def _noise(self, jobs):
        if jobs[0].noise != "torch":
            return super()._noise(jobs)
        shape = self.latent_shape(jobs[0])
        noises = [np.stack([torch_noise(job.seed, shape, draw) for job in jobs]) for draw in (0, 1)]
        return self._put(noises, sharded=True)

    def _latents(self, jobs, terms, on_steps):
        runs = zip(*map(denoising_runs, jobs), strict=True)
        noises = self._noise(jobs)
        made = [self._denoise_batch(run, terms, noise, on_steps) for run, noise in zip(runs, noises, strict=True)]
        latents, failed_at = zip(*made, strict=True)
        return latents, jnp.maximum(*failed_at)

    def _compile_decode(self, latents):
        job, numbers = self._job, [self._abstract((self.batch_size,), dtype) for dtype in (jnp.float32, bool)]
        places = [id(vae) for vae in self.decoders]
        decode = functools.partial(
            _imprinted,
            decoders=[places.index(id(self.models[term].vae)) for term in TERMS],
            view=VIEWS[job.terms["image"].view],
            cutoff=job.cutoff_latent,
            wrap=job.wrap,
        )
        decode = self._layout.each(decode, (P(), *[P("data")] * 4))
        decode = decode.lower(self.decoders, latents, latents, *numbers)
        self._decode = decode.compile()
        return self._abstract(decode.out_info[0].shape)

    def _shown(self, jobs, latents):
        mag_ratio = np.array([job.mag_ratio for job in jobs], np.float32)
        inverse_image = np.array([job.inverse_image for job in jobs])
        return self._decode(self.decoders, *latents, *self._put((mag_ratio, inverse_image), sharded=True))


def _imprinted(vaes, *args, decoders, view, cutoff, wrap):
    """The spectrograms `[b, H, W]`, and, in a tuple, the pictures `[b, H, W, 3]`; one sample after the other.

    Args:
      args: latents of picture and spectrogram `[b, h, w, 4]`, mag_ratio `[b]`, inverse_image `[b]`.
      decoders: the place of each latent's VAE in `vaes`.
    """

    def of_sample(sample):
        picture, spectrogram, *numbers = jax.tree.map(lambda a: a[None], sample)
        picture = view.invert(_grey(decoding.render_view(picture, vaes[decoders[0]], view, wrap)))
        spectrogram = _grey(decoding.render_view(spectrogram, vaes[decoders[1]], VIEWS["identity"], wrap))
        imprinted = decoding.quantize(imprint.imprint(picture[..., 0], spectrogram[..., 0], *numbers))
        return imprinted[0], (jnp.repeat(view.apply(imprinted[..., None]), 3, axis=-1)[0],)

    *latents, mag_ratio, inverse_image = args
    if cutoff:
        latents = [z[:, :, : -decoding.CROPPED_LATENTS] for z in latents]
    return jax.lax.map(of_sample, (*latents, mag_ratio, inverse_image))


def _grey(picture):
    return picture.mean(axis=-1, keepdims=True)


# Of an optimisation: a program makes so many iterations at once; and so many pictures show how far it is.
BLOCK, SHOWN = 25, 8


class Distiller(Sampler):
    """Score distillation, see `its_jax.pipeline.methods.sds_loop`: in place of latents, grey pictures are optimised.

    Its models but the sound's may be of pixels, see `its_jax.pipeline.methods.sds_pixel`.

    Args of the constructor, besides those of `Sampler`:
      workdir: where progress is kept, so that a run that was broken off goes on; None keeps none.
    """

    def __init__(self, job, *, workdir: Path | None = None, **how):
        self._workdir = workdir if workdir and files.is_local(workdir) else None
        super().__init__(job, **how)

    def _lay_out(self, job, devices_per_sample):
        if devices_per_sample > 1:
            raise UserError(f"devices_per_sample={devices_per_sample}: method='sds' has 1")
        return super()._lay_out(job, devices_per_sample)

    def _load(self, job):
        self._asked = [prompt for term in job.terms for prompt in term_prompts(job, term)]
        models, mel = super()._load(job)
        for model in models.values():
            if model.vae is not None:
                backends.use_reference_kernels(model.vae, self._device)
        return models, mel

    def _parts(self, source):
        unet = pretrained.abstract_model(source, parts=("unet",), dtype=self._dtype).unet
        return ("text_encoder", "unet") if isinstance(unet, PixelUNet) else super()._parts(source)

    def _check_fit(self, models, job):
        super()._check_fit({term: model for term, model in models.items() if not _is_of_pixels(model)}, job)
        for model in filter(_is_of_pixels, models.values()):
            sds_pixel.check_model(model.source, model.unet)

    def _fill(self, outlines, sources):
        """A T5 is let go again before the others come: T5-XXL fills a device alone."""
        self._outlines = {source: outline for source, outline in outlines.items() if _is_of_pixels(outline)}
        for outline in self._outlines.values():
            t5_embeddings.embedded(outline, self._asked)
        without = {
            source: dataclasses.replace(outline, text_encoder=None) for source, outline in self._outlines.items()
        }
        return super()._fill(outlines | without, sources)

    def _lower_text(self, model):
        if not _is_of_pixels(model):
            return super()._lower_text(model)
        shape = 1, model.tokenizer.model_max_length, model.unet.config.encoder_hid_dim
        return prompts.project_text.lower(model.unet, self._abstract(shape, sharding=self._of_source(model.source)))

    def _read(self, model, prompt):
        if not _is_of_pixels(model):
            return super()._read(model, prompt)
        text = t5_embeddings.embedded(self._outlines[model.source], [prompt])[prompt][None]
        return model.unet, jax.device_put(text, self._of_source(model.source))

    def _prepare(self, model):
        return model.unet if _is_of_pixels(model) else super()._prepare(model)

    def _compile_latents(self, terms):
        b, job = self.batch_size, self._job
        size = job.height, job.width
        alphas = self._put({name: m.schedule.alphas_cumprod().astype(np.float32) for name, m in self.models.items()})
        self._critics = [
            sds_pixel.PixelGuide(unet, alphas[name])
            if _is_of_pixels(model)
            else sds_latent.LatentGuide(unet, model.vae, alphas[name])
            for unet, (name, model) in zip(self._unets, self.models.items(), strict=True)
        ]
        whole, split = P(), P("data")
        seeds, rates, zero = self._abstract((b,), jnp.uint32), self._abstract((b,)), self._put(np.int32(0))
        begin = self._layout.each(sds_loop.initial_state, (split,)).lower(seeds)
        self._start = begin.compile()
        state = self._shaped(begin.out_info, self._layout.sharded)
        guides = [self._guide([job] * b, name, term) for name, term in zip(self.models, terms, strict=True)]
        specs = (whole, split, split, split, split, whole, whole)
        optimise = self._layout.each(functools.partial(sds_loop.optimize, size=size), specs)
        self._denoise = optimise.lower(self._critics, guides, state, rates, seeds, zero, zero).compile()
        draw = self._layout.each(functools.partial(sds_loop.pictures, size=size), (split,))
        self._draw = draw.lower(state).compile()
        return self._abstract((b, *size))

    def _guide(self, jobs, name, term):
        def numbers(of_job, dtype):
            return self._put(np.array([of_job(job) for job in jobs], dtype), sharded=True)

        def ends(steps):
            return steps.start, steps.stop

        return sds_loop.Guidance(
            dataclasses.replace(term, guidance_scale=None, weights=None),
            weight=numbers(lambda job: job.terms[name].weight, np.float32),
            guidance_scale=numbers(lambda job: job.terms[name].guidance_scale, np.float32),
            steps=numbers(lambda job: ends(active_steps(job, name)), np.int32),
            guided_steps=numbers(lambda job: ends(guided_steps(job, name)), np.int32),
        )

    def _latents(self, jobs, terms, on_steps):
        guides = [self._guide(jobs, name, term) for name, term in zip(self.models, terms, strict=True)]
        seeds = self._put(np.array([job.seed for job in jobs], np.uint32), sharded=True)
        rates = self._put(np.array([job.learning_rate for job in jobs], np.float32), sharded=True)
        state, done, steps = self._start(seeds), 0, jobs[0].num_steps
        kept, begun, self._seconds_before = self._progress_of(jobs), time.monotonic(), 0.0
        if kept:
            state, done, self._seconds_before = kept.load(state)
            on_steps(done)
        if done:
            logging.info("going on after %d of %d iterations", done, steps)
        shown_at = {round(steps * i / SHOWN) for i in range(1, SHOWN)}
        ends = sorted({*range(done + BLOCK, steps, BLOCK), *(k for k in shown_at if k > done), steps} - {done})
        saved = time.monotonic()
        for end in ends:
            first, last = self._put((np.int32(done), np.int32(end)))
            with jax.transfer_guard("disallow"):
                state = self._denoise(self._critics, guides, state, rates, seeds, first, last)
                jax.block_until_ready(state)
            on_steps(end - done)
            done = end
            if kept and done in shown_at:
                for job, picture in zip(jobs, np.asarray(self._draw(state)), strict=True):
                    kept.show(sample_id(job), done, picture)
            if kept and (time.monotonic() - saved > SAVE_SECONDS or done == steps):
                kept.save(state, done, self._seconds_before + time.monotonic() - begun)
                saved = time.monotonic()
        return self._draw(state), state.failed_at

    def _progress_of(self, jobs):
        if self._workdir is None:
            return None
        models = [model.identity for model in self.models.values()]
        return ResumeState(self._workdir, [*map(sample_id, jobs), *models])

    def _progress(self, jobs):
        kept = self._progress_of(jobs)
        return kept and kept.folder

    def _compile_decode(self, latents):
        views = [VIEWS[self._job.terms[term].view] for term in image_terms(self._job)]
        self._decode = self._layout.each(functools.partial(_seen, views=views), (P("data"),)).lower(latents).compile()
        return self._abstract(latents.shape)

    def _shown(self, jobs, latents):
        return self._decode(latents)


def _is_of_pixels(model):
    return isinstance(model.unet, PixelUNet)


def _seen(picture, *, views):
    """Grey pictures `[b, H, W]` -> the same in 256 levels, and, in a tuple, as the views lay them out."""
    spectrogram = decoding.quantize(picture)
    return spectrogram, tuple(jnp.repeat(view.apply(spectrogram[..., None]), 3, axis=-1) for view in views)


# Method -> its sampler, where that is not `Sampler` itself.
SAMPLERS = {"imprint": Imprinter, "sds": Distiller}


def sampler_for(job: SampleSettings, workdir: Path, usual: Callable[..., Sampler], **how) -> Sampler:
    """The sampler of jobs like this one. Those that take long keep their progress in the work folder.

    Args:
      usual: makes samplers for methods that have none of their own. how: arguments of `Sampler`.
    """
    if job.method == "sds":
        how |= {"workdir": workdir}
    return SAMPLERS.get(job.method, usual)(job, **how)
