"""Score distillation: in place of latents, gray images are optimized until all models find them likely."""

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from its_jax.diffusion import denoise
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.pipeline import decoding, step_tables
from its_jax.pipeline.components import Components, Requirements, is_pixel_model
from its_jax.pipeline.methods import sds_loop, sds_pixel
from its_jax.pipeline.methods.base import Generated
from its_jax.pipeline.methods.resume import SAVE_SECONDS, ResumeState
from its_jax.pipeline.methods.sds_latent import LatentGuide
from its_jax.pipeline.methods.sds_pixel import PixelGuide
from its_jax.pipeline.placement import DataParallel
from its_jax.pipeline.progress import CALLS, OnProgress, Progress
from its_jax.settings.ids import sample_id
from its_jax.settings.schema import SampleSettings
from its_jax.settings.steps import active_steps, guided_steps, image_terms
from its_jax.storage import files

BLOCK = 25  # A program runs at most this many iterations at once.
SNAPSHOTS = 8  # This many images of the run so far are kept beside its state.


class ScoreDistillation:
    """Optimizes one gray image per sample by the gradients of all models. See `base.Method`.

    All models but the sound's may be of pixels. If `workdir` is a local folder, a run that was interrupted goes on.
    """

    requirements = Requirements(pixel_models=True, gradients=True)

    def __init__(
        self,
        settings: SampleSettings,
        components: Components,
        texts: Mapping[str, Any],
        batch_size: int,
        workdir: Path | None = None,
        save_seconds: float = SAVE_SECONDS,
    ):
        place = self._placement = components.placement
        self._workdir = workdir if workdir and files.is_local(workdir) else None
        self._identities, self._save_seconds = list(components.identities.values()), save_seconds
        self._options = {name: step_tables.term_options(settings, name, components.vae.config.factor) for name in texts}
        size = settings.height, settings.width
        self._guides = self._make_guides(components)
        self._compile(settings, texts, batch_size, size)
        views = [VIEWS[settings.terms[term].view] for term in image_terms(settings)]
        self.spectrogram = place.abstract((batch_size, *size))
        show = place.jit_per_device(functools.partial(show_in_views, views=views), (P("data"),))
        self._show = show.lower(self.spectrogram).compile()
        self.programs = {"denoise": self._optimize, "decode": self._show}

    @staticmethod
    def check(models: Mapping[str, Any], placement: DataParallel) -> None:
        if placement.devices_per_sample > 1:
            raise UserError(f"devices_per_sample={placement.devices_per_sample}: method='sds' has 1")
        for model in filter(is_pixel_model, models.values()):
            sds_pixel.check_model(model.source, model.unet)

    def _make_guides(self, components):
        return [
            PixelGuide(unet, alphas) if is_pixel_model(model) else LatentGuide(unet, model.vae, alphas)
            for unet, model in zip(components.unet_list, components.models.values(), strict=True)
            for alphas in [self._placement.put(model.schedule.alphas_cumprod().astype(np.float32))]
        ]

    def _compile(self, settings, texts, b, size):
        place, (whole, split) = self._placement, (P(), P("data"))
        seeds, rates, zero = place.abstract((b,), jnp.uint32), place.abstract((b,)), place.put(np.int32(0))
        start = place.jit_per_device(sds_loop.initial_state, (split,)).lower(seeds)
        self._start = start.compile()
        state = place.abstract_like(start.out_info)
        specs = (whole, split, split, split, split, whole, whole)
        optimize = place.jit_per_device(functools.partial(sds_loop.optimize, size=size), specs)
        guidance = self._guidance([settings] * b, texts)
        self._optimize = optimize.lower(self._guides, guidance, state, rates, seeds, zero, zero).compile()
        render = place.jit_per_device(functools.partial(sds_loop.images, size=size), (split,))
        self._render = render.lower(state).compile()

    def _guidance(self, batch, texts):
        """Returns the guidance of each term; `texts` may be shapes."""

        def numbers(get, dtype):
            return self._placement.put(np.array([get(settings) for settings in batch], dtype), sharded=True)

        def ends(steps):
            return steps.start, steps.stop

        unused: Any = None
        return [
            sds_loop.Guidance(
                denoise.Term(text, unused, unused, **self._options[name]),
                weight=numbers(lambda settings, name=name: settings.terms[name].weight, np.float32),
                guidance_scale=numbers(lambda settings, name=name: settings.terms[name].guidance_scale, np.float32),
                steps=numbers(lambda settings, name=name: ends(active_steps(settings, name)), np.int32),
                guided_steps=numbers(lambda settings, name=name: ends(guided_steps(settings, name)), np.int32),
            )
            for name, text in texts.items()
        ]

    def generate(self, batch: Sequence[SampleSettings], texts: Mapping[str, Any], on_progress: OnProgress) -> Generated:
        place, steps = self._placement, batch[0].num_steps
        guidance = self._guidance(batch, texts)
        seeds = place.put(np.array([settings.seed for settings in batch], np.uint32), sharded=True)
        rates = place.put(np.array([settings.learning_rate for settings in batch], np.float32), sharded=True)
        resume = self._resume_state(batch)
        state, done, seconds_before = self._start(seeds), 0, 0.0
        if resume:
            state, done, seconds_before = resume.load(state)
        if done:
            logging.info("resuming after %d of %d iterations", done, steps)
            on_progress(Progress(done, steps, functools.partial(self._preview, state)))
        start = saved = time.monotonic()
        snapshots = {round(steps * i / SNAPSHOTS) for i in range(1, SNAPSHOTS)}
        for end in split_iterations(done, steps, snapshots):
            first, last = place.put((np.int32(done), np.int32(end)))
            with jax.transfer_guard("disallow"):
                state = self._optimize(self._guides, guidance, state, rates, seeds, first, last)
                jax.block_until_ready(state)
            done = end
            on_progress(Progress(done, steps, functools.partial(self._preview, state)))
            if resume and done in snapshots:
                for settings, image in zip(batch, np.asarray(self._render(state)), strict=True):
                    resume.show(sample_id(settings), done, image)
            if resume and (time.monotonic() - saved > self._save_seconds or done == steps):
                resume.save(state, done, seconds_before + time.monotonic() - start)
                saved = time.monotonic()
        folder = resume.folder if resume else None
        return Generated(self._render(state), state.failed_at, seconds_before, folder)

    def render(self, batch: Sequence[SampleSettings], latents: Array) -> tuple[Array, tuple[Array, ...]]:
        return self._show(latents)

    def _preview(self, state):
        _, images = self._show(self._render(state))
        return list(np.asarray(images[0]))

    def _resume_state(self, batch):
        if self._workdir is None:
            return None
        return ResumeState(self._workdir, [*map(sample_id, batch), *self._identities])


def split_iterations(done: int, steps: int, snapshots: set[int]) -> list[int]:
    """Returns the iterations at which the program stops, in rising order.

    There are at least `CALLS` stops in a whole run (or one per iteration), and one at each snapshot.
    """
    block = max(1, min(BLOCK, steps // CALLS))
    return sorted({*range(done + block, steps, block), *(k for k in snapshots if k > done), steps} - {done})


def show_in_views(image: Array, *, views: Sequence[Any]) -> tuple[Array, tuple[Array, ...]]:
    """Quantizes gray images `[b, H, W]` to 256 levels; returns them, and as each view lays them out, `[b, H, W, 3]`."""
    spectrogram = decoding.quantize(image)
    return spectrogram, tuple(jnp.repeat(view.apply(spectrogram[..., None]), 3, axis=-1) for view in views)
