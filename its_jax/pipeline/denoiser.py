"""Denoises the latents of a batch with the models of all terms, by programs that are compiled once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from its_jax.diffusion import denoise
from its_jax.diffusion.torch_noise import torch_noise
from its_jax.pipeline import step_tables
from its_jax.pipeline.components import Components
from its_jax.pipeline.progress import OnProgress, Progress, split_range
from its_jax.settings.schema import SampleSettings
from its_jax.settings.steps import denoising_runs, first_step

# Decodes latents into one image per sample, for previews.
Decode = Callable[[Array], list[np.ndarray]]


class Denoiser:
    """Compiled programs that take noise and texts to latents.

    Args of the constructor:
      settings: of one sample; the batch's others agree with it in `program_key`.
      texts: by term, the shapes of its texts, leaves `[b, prompts, ...]`.
      from_files: whether samples start from given latents, parts of which they may keep.
      draw: draws the noise of seeds `[b]`, see `denoise.initial_noise`.

    Attributes:
      latents: the shape of a batch's latents `[b, h, w, c]`. program: the compiled denoising loop.
    """

    def __init__(
        self,
        settings: SampleSettings,
        components: Components,
        texts: Mapping[str, Any],
        batch_size: int,
        from_files: bool = False,
        draw: Callable[[Array, tuple[int, int, int]], Any] = denoise.initial_noise,
    ):
        self._components, self._placement = components, components.placement
        self._shape = components.latent_shape(settings)
        # All runs of a batch use the options of its own settings, so that one program serves them.
        self._options = {name: step_tables.term_options(settings, name, components.vae.config.factor) for name in texts}
        place, b = self._placement, batch_size
        steps = components.schedule.num_train_timesteps
        terms = [
            denoise.Term(
                texts=text,
                guidance_scale=place.abstract((b, steps)),
                weights=place.abstract((b, steps)),
                **self._options[name],
            )
            for name, text in texts.items()
        ]
        self.latents = latents = place.abstract((b, *self._shape))
        seeds = place.abstract((b,), jnp.uint32)
        self._draw = jax.jit(draw, static_argnums=1, out_shardings=place.sharded).lower(seeds, self._shape).compile()
        mask = place.abstract((*latents.shape[:3], 1), bool)
        known = denoise.Known(mask, latents, latents) if from_files else None
        self._compile_loop(place.terms(terms), self._tables([denoising_runs(settings)[0]] * b), latents, known)

    def _compile_loop(self, terms, tables, latents, known):
        place, unets = self._placement, self._components.unets
        table, modes = place.put((tables.solver, tables.modes))
        row = () if known is None else (known.z, jax.tree.map(lambda column: column[0], table))
        start = jax.jit(denoise.initial_state, out_shardings=place.sharded)
        self._start = start.lower(latents, *row).compile()
        empty = place.jit_empty_caches(terms).lower(unets, terms, latents)
        self._empty_caches = empty.compile()
        caches = jax.tree.map(
            lambda a, sharding: place.abstract(a.shape, a.dtype, sharding),
            empty.out_info,
            self._empty_caches.output_shardings,
        )
        state = denoise.State(latents, latents, place.abstract(latents.shape[:1], jnp.int32), caches)
        zero = place.put(np.int32(0))
        self.program = place.lower_denoise(unets, terms, table, modes, state, zero, zero, known).compile()
        if known is not None:
            insert = jax.jit(denoise.insert_known, out_shardings=place.sharded)
            self._insert_known = insert.lower(latents, known).compile()

    def noise(self, batch: Sequence[SampleSettings]) -> Any:
        """Draws the noise of a batch from its seeds, `[b, h, w, c]`, or what `draw` returns."""
        return self._draw(self._placement.put(np.array([s.seed for s in batch], np.uint32), sharded=True))

    def torch_noise(self, batch: Sequence[SampleSettings], draw: int = 0) -> Array:
        """Draws the noise that PyTorch would draw, `[b, h, w, c]`; `draw` counts the calls before, per seed."""
        noise = np.stack([torch_noise(settings.seed, self._shape, draw) for settings in batch])
        return self._placement.put(noise, sharded=True)

    def __call__(
        self,
        batch: Sequence[SampleSettings],
        texts: Mapping[str, Any],
        noise: Array,
        on_progress: OnProgress,
        decode: Decode,
        done: int = 0,
        total: int = 0,
        init: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Denoises a batch.

        Args:
          texts: by term, leaves `[b, prompts, ...]`. noise: `[b, h, w, c]`.
          decode: decodes the current estimate, for `Progress.preview`.
          done, total: steps of earlier runs of the batch, and steps of all its runs; 0 stands for those of this run.
          init: keep masks `[b, h, w, 1]` and latents `[b, h, w, c]` that the samples start from, or None.

        Returns:
          latents `[b, h, w, c]`, and the first step `[b]` with a non-finite latent, or -1.
        """
        place, settings = self._placement, batch[0]
        steps, first = settings.num_steps, first_step(settings)
        total = total or steps - first
        tables = self._tables(batch)
        table, modes = place.put((tables.solver, tables.modes))
        terms = self._terms(texts, tables)
        known = None if init is None else denoise.Known(*init, noise)
        row = () if known is None else (known.z, jax.tree.map(lambda column: column[first], table))
        state = self._start(noise, *row)
        unets = self._components.unets
        state = state._replace(caches=self._empty_caches(unets, terms, noise))

        def report(end, state):
            on_progress(Progress(done + end - first, total, lambda: decode(state.x0)))

        bounds = split_range(first, steps)
        marks = [place.put(np.int32(bound)) for bound in bounds]
        for i in range(len(bounds) - 1):
            with jax.transfer_guard("disallow"):
                ahead = self.program(unets, terms, table, modes, state, marks[i], marks[i + 1], known)
                jax.block_until_ready(state)  # The device has its next work already.
            if i:
                report(bounds[i], state)
            state = ahead
        jax.block_until_ready(state)
        report(bounds[-1], state)
        return (state.x if known is None else self._insert_known(state.x, known)), state.failed_at

    def _terms(self, texts, tables):
        place = self._placement
        weights, scales = place.put((tables.weights, tables.guidance_scales), sharded=True)
        return place.terms(
            denoise.Term(text, scale, weight, **self._options[name])
            for (name, text), weight, scale in zip(texts.items(), weights, scales, strict=True)
        )

    def _tables(self, batch):
        return step_tables.step_tables(self._components.schedule, batch)
