"""Jobs of one shape -> samples: the beads encode, denoise, decode and vocode on one string, compiled once."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from its_jax import pretrained
from its_jax.checkpoints import load
from its_jax.diffusion import denoise
from its_jax.diffusion.feature_cache import Mode
from its_jax.diffusion.solvers import SOLVERS, SolverTable, solver_table
from its_jax.diffusion.term_schedule import alternate, select_modes, term_weights
from its_jax.diffusion.torch_noise import torch_noise
from its_jax.diffusion.views import VIEWS
from its_jax.diffusion.windows import Windows
from its_jax.errors import UserError, check_choice
from its_jax.models import backends
from its_jax.pipeline import decoding, init_latent, model_parallel
from its_jax.pipeline import prompts as pipeline_prompts
from its_jax.pipeline.placement import DataParallel
from its_jax.pipeline.progress import split_range
from its_jax.settings.ids import batch_key, program_key
from its_jax.settings.schema import SampleSettings
from its_jax.settings.steps import (
    active_steps,
    active_terms,
    always_guided,
    denoising_runs,
    first_step,
    guided_steps,
    image_terms,
    is_active,
    term_prompts,
    term_weight,
)
from its_jax.settings.validate import keep_ranges

# Beyond this many the CPU gains nothing from a larger batch.
CPU_BATCH = 4
# Rough peak of full-size models in float32: bytes for each pixel of a sample and each channel that the VAE has at full
# resolution.
CPU_BYTES_PER_PIXEL = 64
# Of all memory rather than of what is free just now, so that a machine makes the same batches, hence bits, of a job.
CPU_MEMORY_SHARE = 0.25
MAX_BATCH_PER_DEVICE = 64
# What encoded prompts may take on a device, to serve later batches too; at full size one takes 4 MB in bfloat16.
TEXT_BYTES = 512 * 2**20
HOST_TEXT_BYTES = 8 * 2**30  # and what those may take beside it that had to make room there
MEMORY_SHARE = 0.9
# What XLA's errors say where memory does not suffice.
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
_PARTS, _SOUND_PARTS = ("text_encoder", "unet", "vae"), ("vocoder",)
# A batch is denoised in so many calls, between which progress is shown; the bits do not depend on it.
PROGRESS_CALLS = 20


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one job gives.

    Attributes:
      pictures: term -> float32 `[H, W, 3]` in [0, 1] as its view lays it out, of those that `jobs.pictures` names.
      spectrogram: `[H, W]` in [0, 1], what was vocoded, in 256 levels.
      waveform: float32 `[samples]` in [-1, 1]. latents: float32 `[h, w, 4]`; other methods have others.
      position: its place in the batch, of batch_size samples. failed_at: first step with a non-finite latent, or -1.
      seconds: stage -> duration of its batch, with those of loading and compiling.
      progress: a folder of what its batch had on the way, to be removed once all of it is written.
    """

    pictures: Mapping[str, np.ndarray]
    spectrogram: np.ndarray
    waveform: np.ndarray
    latents: Any
    position: int
    batch_size: int
    failed_at: int
    seconds: Mapping[str, float]
    progress: Path | None = None

    @property
    def fault(self) -> str | None:
        """Why it cannot be written, or None."""
        if self.failed_at >= 0:
            return f"the latents are not finite from step {self.failed_at} on"
        if not all(np.isfinite(array).all() for array in (*self.pictures.values(), self.spectrogram, self.waveform)):
            return "the latents are finite, but what they decode to is not: use a dtype of greater range"
        return None


@contextlib.contextmanager
def timed(stage: str, seconds: dict[str, float], tell: bool = True):
    """Adds a stage's duration to `seconds`, and logs it."""
    start = time.perf_counter()
    yield
    spent = time.perf_counter() - start
    seconds[stage] = seconds.get(stage, 0.0) + spent
    if tell:
        logging.info("%-8s %.2f s", stage, spent)


class Sampler:
    """Loaded models and compiled programs for jobs that agree in `jobs.program`; those of a batch, in `jobs.shared`.

    Args of the constructor:
      job: one of the jobs. pending: how many there are. batch_size: samples at once, 0 to choose.
      may_shrink: whether there may be fewer at once where the memory does not suffice, even if they were not chosen.
      devices_per_sample: 1, or as many as terms, or twice as many, see `its_jax.pipeline.model_parallel`.

    `its_jax.pipeline.methods.subclasses` has what some methods do in another way.

    Attributes:
      models: term -> `load.Model`; terms of one source share it. batch_size: a multiple of how many samples the
        devices take at once.
      mel: the vocoder's front end. seconds: duration of 'load' and 'compile'.

    Raises:
      UserError: for settings that do not fit the models, models that do not fit each other, or a batch that is beyond
        the memory.
    """

    _noise_of_seeds = staticmethod(denoise.initial_noise)
    _seconds_before = 0.0  # of the batch's denoising, in processes that were broken off

    def __init__(
        self,
        job: SampleSettings,
        *,
        pending: int,
        batch_size: int = 0,
        devices_per_sample: int = 1,
        may_shrink: bool = False,
    ):
        _check_choices(job)
        self.seconds: dict[str, float] = {}
        self._dtype = jnp.dtype(job.dtype)
        self._layout = self._lay_out(job, devices_per_sample)
        self._device = self._layout.mesh.devices.flat[0]  # all are of one kind
        with timed("load", self.seconds):
            self.models, self.mel = self._load(job)
        self._program, self._pictures = program_key(job), image_terms(job)
        self._unets, self._texts, self._on_host = self._prepared(), {}, {}
        self._told = False
        self._known = self._origin(job)
        self._job, self._devices, self._chosen = job, self._layout.at_once, may_shrink or not batch_size
        with timed("compile", self.seconds):
            self._compile_texts()
            self._choose(pending, batch_size)

    def _lay_out(self, job, devices_per_sample):
        terms = job.terms
        return (
            DataParallel() if devices_per_sample == 1 else model_parallel.TermParallel(len(terms), devices_per_sample)
        )

    def _load(self, job):
        """The model of each term, and the vocoder's front end; what does not fit is said before weights are read."""
        parts = {}
        for term in job.terms:
            wanted = self._parts(job.terms[term].model) + _SOUND_PARTS * (term == "audio")
            parts[job.terms[term].model] = max(parts.get(job.terms[term].model, ()), wanted, key=len)
        for source, wanted in parts.items():
            pretrained.check_components(source, wanted)
        outlines = {
            source: pretrained.abstract_model(source, parts=wanted, dtype=self._dtype)
            for source, wanted in parts.items()
        }
        of_term = {term: outlines[job.terms[term].model] for term in job.terms}
        self._check_fit(of_term, job)
        self._layout.check(of_term)
        mel = decoding.mel_config(of_term["audio"].vocoder.config, job.height)
        filled = self._fill(outlines, [outline.source for outline in of_term.values()])
        return {term: filled[outline.source] for term, outline in of_term.items()}, mel

    def _parts(self, source):
        """Those that a term takes of its model."""
        return _PARTS

    def _check_fit(self, models, job):
        _check_fit(models, job)

    def _fill(self, outlines, sources):
        """The models of outlines by source, where terms, in their order, have these `sources`."""
        filled: dict[str, load.Model] = {}
        for source, outline in outlines.items():
            own = self._layout.of_model([i for i, other in enumerate(sources) if other == source])
            places = {"text_encoder": own, "unet": own}
            places |= {"vae": self._layout.replicated, "vocoder": self._layout.replicated}
            filled[source] = load.restore_weights(outline, sharding=places, share=list(filled.values()))
        for model in filled.values():
            backends.specialize(model.unet, self._device, prepare=True)
            for part in (model.text_encoder, model.vae, model.vocoder):
                if part is not None:
                    backends.specialize(part, self._device)
        return filled

    @property
    def devices_per_sample(self) -> int:
        return self._layout.devices_per_sample

    @property
    def image(self):
        return self.models["image"]

    @property
    def audio(self):
        return self.models["audio"]

    def __call__(
        self,
        jobs: Sequence[SampleSettings],
        on_steps: Callable[[int], None] = lambda steps: None,
        *,
        position: int = 0,
    ) -> list[Sample]:
        """Makes the samples of up to `batch_size` jobs; a smaller batch is filled up with copies.

        Args:
          on_steps: called with the number of steps done since the last call, over all jobs.
          position: of the first job in the batch. Elsewhere in the batch a sample is close, but its last bits may
            differ.
        """
        if program_key(jobs[0]) != self._program:
            raise ValueError(
                "jobs of one sampler must agree in models, views, sizes, dtype, vocoder, and in which terms are guided"
            )
        shared = batch_key(jobs[0])
        if any(batch_key(job) != shared for job in jobs[1:]):
            raise ValueError("jobs of one batch must agree in solver, steps and the kind of noise, too")
        filled = [*[jobs[0]] * position, *jobs]
        filled += [jobs[-1]] * (self.batch_size - len(filled))
        seconds, tell = dict(self.seconds), not self._told  # of the first batch only: there may be thousands
        self._told = True
        with timed("encode", seconds, tell):
            terms = jax.block_until_ready(self._terms(filled))
        with timed("denoise", seconds, tell):
            latents, failed_at = self._latents(filled, terms, lambda steps: on_steps(steps * len(jobs)))
        seconds["denoise"] += self._seconds_before
        with timed("decode", seconds, tell):
            spectrogram, pictures = jax.block_until_ready(self._shown(filled, latents))
        with timed("vocode", seconds, tell):
            waveform = jax.block_until_ready(self._vocode(self.audio.vocoder, spectrogram))
        pictures, *arrays, failed_at = jax.device_get((pictures, spectrogram, waveform, latents, failed_at))
        progress = self._progress(filled)
        return [
            Sample(
                dict(zip(self._pictures, (picture[i] for picture in pictures), strict=True)),
                *(jax.tree.map(lambda a, i=i: a[i], array) for array in arrays),
                position=i,
                batch_size=self.batch_size,
                failed_at=int(failed_at[i]),
                seconds=seconds,
                progress=progress,
            )
            for i in range(position, position + len(jobs))
        ]

    def warn(self, jobs: Sequence[SampleSettings]) -> None:
        """Logs a warning for each prompt that is cut off, or has words that its model does not know."""
        for name in dict.fromkeys(name for job in jobs for name in active_terms(job)):
            model = self.models[name]
            asked = [job for job in jobs if name in active_terms(job)]
            if any(not active_steps(job, name) for job in asked):
                logging.warning("%s takes part at none of the steps, by its start_step and stop_step", name)
            elif any(job.terms[name].guidance_scale != 1 and not guided_steps(job, name) for job in asked):
                logging.warning(
                    "%s is guided at none of the steps, by guidance_start_step and guidance_stop_step", name
                )
            prompts = dict.fromkeys(prompt for job in asked for prompt in reversed(term_prompts(job, name)))
            pipeline_prompts.warn_about_prompts(model.tokenizer, prompts, vocabulary=model.vocabulary)

    def _compile_texts(self):
        """`_encode`, and the shapes that it gives."""
        encode = {}
        for source, model in self._sources.items():
            encode[source] = self._lower_text(model)
        self._encode = {source: lowered.compile() for source, lowered in encode.items()}
        self._text = {
            source: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), lowered.out_info)
            for source, lowered in encode.items()
        }

    def _lower_text(self, model):
        """What is given `_read`, lowered."""
        ids = self._abstract((1, model.tokenizer.model_max_length), jnp.int32, self._of_source(model.source))
        return pipeline_prompts.prepare_texts.lower(model.text_encoder, model.unet, ids)

    @property
    def _sources(self):
        """Each model once, though terms share it."""
        return {model.source: model for model in self.models.values()}

    def _of_source(self, source):
        """Where a model's text encoder and UNet lie."""
        return self._layout.of_model([i for i, model in enumerate(self.models.values()) if model.source == source])

    def _compile(self):
        """Ahead of time, from shapes alone: a program for each stage."""
        spectrogram = self._compile_decode(self._compile_latents(self._compile_join()))
        method, wrap = self._job.vocoder, self._job.wrap
        vocode = functools.partial(decoding.vocode, config=self.mel, method=method, wrap=wrap)
        vocode = self._layout.each(vocode, (PartitionSpec(), PartitionSpec("data")))
        self._vocode = vocode.lower(self.audio.vocoder, spectrogram).compile()

    def _compile_join(self):
        """`_join`, and the shapes of the terms that it gives."""
        job, b = self._job, self.batch_size
        self._join, terms = {}, []
        for i, (name, model) in enumerate(self.models.items()):
            text = self._shaped(self._text[model.source], self._layout.of_text(i))
            join = self._layout.join(functools.partial(_joined, b), i)
            join = join.lower([text] * (b * len(self._prompts_of(job, name))))
            self._join[name] = join.compile()
            terms.append(
                denoise.Term(
                    texts=self._shaped(join.out_info, self._layout.of_texts(i)),
                    guidance_scale=self._abstract((b, self.image.schedule.num_train_timesteps)),
                    weights=self._abstract((b, self.image.schedule.num_train_timesteps)),
                    **self.sight(job, name),
                )
            )
        return terms

    def _compile_latents(self, terms):
        """`_draw`, `_start`, `_denoise` and others, and the shape of the latents that they give."""
        job, b, (h, w, c) = self._job, self.batch_size, self.latent_shape(self._job)
        terms = self._layout.terms(terms)
        rows, *_, chosen = self._put(self.tables([denoising_runs(job)[0]] * b))
        latents, zero = self._abstract((b, h, w, c)), self._put(np.int32(0))
        draw = jax.jit(self._noise_of_seeds, static_argnums=1, out_shardings=self._layout.sharded)
        self._draw = draw.lower(self._abstract((b,), jnp.uint32), (h, w, c)).compile()
        start = jax.jit(denoise.initial_state, out_shardings=self._layout.sharded)
        known = None if self._known is None else denoise.Known(*self._known, latents)
        origin = () if known is None else (known.z, jax.tree.map(lambda column: column[0], rows))
        self._start = start.lower(latents, *origin).compile()
        inner = self._layout.empty_caches(terms).lower(self._unets, terms, latents)
        self._empty_caches = inner.compile()
        inner = jax.tree.map(
            lambda a, place: self._abstract(a.shape, a.dtype, place),
            inner.out_info,
            self._empty_caches.output_shardings,
        )
        state = denoise.State(latents, latents, self._abstract((b,), jnp.int32), inner)
        self._denoise = self._layout.lower(self._unets, terms, rows, chosen, state, zero, zero, known).compile()
        if known is not None:
            self._settle = (
                jax.jit(denoise.insert_known, out_shardings=self._layout.sharded).lower(latents, known).compile()
            )
        return latents

    def _compile_decode(self, latents):
        """`_decode`, and the shape of the spectrogram that it gives."""
        job = self._job
        decode = functools.partial(decoding.decode, frames=self.frames(job), cutoff=job.cutoff_latent, wrap=job.wrap)
        whole, split = PartitionSpec(), PartitionSpec("data")
        decode = self._layout.each(decode, (split, whole)).lower(latents, self.decoders)
        self._decode = decode.compile()
        return self._abstract(decode.out_info[0].shape)

    def _abstract(self, shape, dtype=jnp.float32, sharding=None):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding or self._layout.sharded)

    def _shaped(self, tree, sharding):
        return jax.tree.map(lambda a: self._abstract(a.shape, a.dtype, sharding), tree)

    @property
    def programs(self) -> dict[str, jax.stages.Compiled]:
        """The compiled programs that need memory, by stage."""
        return {"denoise": self._denoise, "decode": self._decode, "vocode": self._vocode}

    def latent_shape(self, job: SampleSettings) -> tuple[int, int, int]:
        """Height, width and channels."""
        vae = self.audio.vae.config
        return job.height // vae.factor, job.width // vae.factor, vae.latent_channels

    def _prepared(self):
        """The UNet of each term; terms that share one share what is prepared of it."""
        prepared = {id(model.unet): self._prepare(model) for model in self.models.values()}
        return self._layout.models([prepared[id(model.unet)] for model in self.models.values()])

    def _prepare(self, model):
        return pipeline_prompts.prepare_unet(model.unet, model.schedule.num_train_timesteps)

    @property
    def decoders(self) -> tuple[Any, ...]:
        """Each VAE once, though models share it."""
        return tuple({id(model.vae): model.vae for model in self.models.values()}.values())

    def frames(self, job: SampleSettings) -> tuple[tuple[int, Any], ...]:
        """What `stages.decode` shows: the spectrogram, then the pictures."""
        places = [id(vae) for vae in self.decoders]
        return tuple(
            (places.index(id(self.models[term].vae)), VIEWS[job.terms[term].view])
            for term in ("audio", *image_terms(job))
        )

    def sight(self, job: SampleSettings, name: str) -> dict[str, Any]:
        """View, windows and ways of evaluation of a term."""
        windows = None
        if job.window or job.wrap:
            columns = job.width // self.audio.vae.config.factor
            size = (job.window or job.width) // self.audio.vae.config.factor
            windows = Windows.cover(columns, size, job.wrap)
        guided = (job.terms[name].guidance_scale != 1,) if always_guided(job, name) else (True, False)
        reused = (False, True) if job.cache_interval > 1 else (False,)
        ways = tuple(itertools.starmap(Mode, itertools.product(guided, reused)))
        return {"view": VIEWS[job.terms[name].view], "windows": windows, "ways": ways}

    def _origin(self, job):
        """Mask and latent of what the samples start from, on the devices, or None."""
        height, width, factor = job.height, job.width, self.audio.vae.config.factor
        if job.init_image:
            view = VIEWS[job.terms["image"].view]
            z = init_latent.from_image(job.init_image, self.image.vae, view, height, width)
        elif job.init_audio:
            z = init_latent.from_audio(job.init_audio, self.audio.vae, self.mel, width)
        else:
            return None
        ranges = keep_ranges(job.keep)
        return self._put((init_latent.keep_mask(ranges, self.mel, height, width, factor), z))

    def _put(self, tree, sharded=False):
        return jax.device_put(tree, self._layout.sharded if sharded else self._layout.replicated)

    def _terms(self, jobs):
        """The terms without what `tables` gives."""
        models = self.models.items()
        prompts = {name: [prompt for job in jobs for prompt in self._prompts_of(job, name)] for name, _ in models}
        wanted = {(model.source, prompt): model for name, model in models for prompt in prompts[name]}
        self._let_go(wanted)
        for (source, prompt), model in wanted.items():
            # Each is encoded once; the one that is asked for last is kept longest.
            text = self._texts.pop((source, prompt), None) or self._from_host(source, prompt)
            self._texts[source, prompt] = text or self._prepare_text(model, prompt)
        terms = []
        for i, (name, model) in enumerate(models):
            texts = [self._texts[model.source, prompt] for prompt in prompts[name]]
            texts = jax.device_put(texts, self._layout.of_text(i))  # of other terms' devices too, where they share it
            terms.append(
                denoise.Term(
                    texts=self._join[name](texts),
                    guidance_scale=None,
                    weights=None,
                    **self.sight(jobs[0], name),
                )
            )
        return terms

    def _let_go(self, wanted):
        """Makes room for the texts that a batch wants: those that were not asked for the longest go to the host."""
        size = max(map(_bytes, self._text.values()))
        more = sum(key not in self._texts for key in wanted)
        for key in [key for key in self._texts if key not in wanted]:
            if (len(self._texts) + more) * size <= TEXT_BYTES:
                break
            self._on_host[key] = jax.device_get(self._texts.pop(key))
        while len(self._on_host) * size > HOST_TEXT_BYTES:
            del self._on_host[next(iter(self._on_host))]

    def _from_host(self, source, prompt):
        text = self._on_host.pop((source, prompt), None)
        return text and jax.device_put(text, self._of_source(source))

    def _prompts_of(self, job, name):
        """Those that are encoded; None in the place of one that its term does not need."""
        prompts = self._layout.prompts(term_prompts(job, name))
        return prompts if is_active(job, name) else [None] * len(prompts)

    def _prepare_text(self, model, prompt):
        """What a model's UNet takes from a prompt, leaves `[1, ...]`."""
        if prompt is None:
            blank = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), self._text[model.source])
            return jax.device_put(blank, self._of_source(model.source))
        return self._encode[model.source](*self._read(model, prompt))

    def _read(self, model, prompt):
        ids = jax.device_put(pipeline_prompts.tokenize(model.tokenizer, [prompt]), self._of_source(model.source))
        return model.text_encoder, model.unet, ids

    def tables(self, jobs: Sequence[SampleSettings]) -> tuple[SolverTable, Any, Any, np.ndarray]:
        """Rows of the solver; weights and guidance scales of each term, `[b steps]` each; and how each is evaluated,
        `[terms steps]`, see `denoise.chosen_ways`."""
        schedule, steps, first = self.image.schedule, jobs[0].num_steps, first_step(jobs[0])
        rows = solver_table(schedule, steps, jobs[0].solver, first)
        spans = [[active_steps(job, name) for job in jobs] for name in self.models]
        weights, active = term_weights(
            [[term_weight(job, name) for job in jobs] for name in self.models],
            [[span.start for span in of_term] for of_term in spans],
            steps,
            schedule,
            stop_steps=[[span.stop for span in of_term] for of_term in spans],
            first=first,
        )
        if jobs[0].method == "alternating":
            weights = alternate(weights, [[job.terms[name].turn for job in jobs] for name in self.models], first)
            active = weights.any(axis=1)
        scales, chosen = [], []
        for name, of_term in zip(self.models, active, strict=True):
            scale = np.ones(weights.shape[1:], np.float32)
            for of_sample, job in zip(scale, jobs, strict=True):
                of_sample[guided_steps(job, name)] = job.terms[name].guidance_scale
            guided, ways = (scale != 1).any(axis=0), self.sight(jobs[0], name)["ways"]
            chosen.append(select_modes(of_term, guided, jobs[0].cache_interval, ways))
            scales.append(scale)
        return rows, list(weights), scales, np.stack(chosen)

    def _noise(self, jobs):
        if jobs[0].noise == "torch":
            shape = self.latent_shape(jobs[0])
            return self._put(np.stack([torch_noise(job.seed, shape) for job in jobs]), sharded=True)
        return self._draw(self._put(np.array([job.seed for job in jobs], np.uint32), sharded=True))

    def _latents(self, jobs, terms, on_steps):
        """What is decoded, and the step at which each sample failed, or -1."""
        return self._denoise_batch(jobs, terms, self._noise(jobs), on_steps)

    def _progress(self, jobs):
        """The folder of what a batch had on the way, if any is kept."""

    def _shown(self, jobs, latents):
        """The spectrograms, and the pictures of each term."""
        return self._decode(latents, self.decoders)

    def _denoise_batch(self, jobs, terms, noise, on_steps):
        steps, first = jobs[0].num_steps, first_step(jobs[0])
        rows, weights, scales, chosen = self.tables(jobs)
        rows, chosen = self._put((rows, chosen))
        weights, scales = self._put((weights, scales), sharded=True)
        terms = self._layout.terms(
            dataclasses.replace(term, weights=w, guidance_scale=scale)
            for term, w, scale in zip(terms, weights, scales, strict=True)
        )
        known = None
        if self._known is None:
            state = self._start(noise)
        else:
            known = denoise.Known(*self._known, noise)
            state = self._start(noise, known.z, jax.tree.map(lambda column: column[first], rows))
        state = state._replace(caches=self._empty_caches(self._unets, terms, noise))
        bounds = split_range(first, steps, PROGRESS_CALLS)
        marks = [self._put(np.int32(bound)) for bound in bounds]
        with jax.transfer_guard("disallow"):
            for i in range(len(bounds) - 1):
                ahead = self._denoise(self._unets, terms, rows, chosen, state, marks[i], marks[i + 1], known)
                jax.block_until_ready(state)  # of the call before: the device has its next work already
                on_steps(bounds[i] - bounds[i - 1] if i else 0)
                state = ahead
            jax.block_until_ready(state)
            on_steps(bounds[-1] - bounds[-2])
            return (state.x if known is None else self._settle(state.x, known)), state.failed_at

    def _choose(self, pending, asked):
        """The batch size, a multiple of the devices, and the programs for it."""
        devices = self._devices
        if asked:
            self._compile_for(-(-asked // devices) * devices)
            return
        wanted = -(-min(pending, MAX_BATCH_PER_DEVICE * devices) // devices) * devices
        if self._device.platform == "cpu":
            fitting = max(1, min(wanted, CPU_BATCH, self._fitting_on_cpu()))
            self._compile_for(-(-fitting // devices) * devices)
            return
        free = self._free()
        self._compile_for(devices)
        fitting = max(1, int(free / self._needed()))
        size = min(wanted, 2 ** int(np.log2(fitting)) * devices)
        while size > self.batch_size:
            self._compile_for(size)
            if self.batch_size < size:  # the compiler refused
                break
            if 2 * self._needed() <= free:  # not all of it grows with the batch
                size = min(wanted, 2 * size)
        while self._needed() > free and self.batch_size > devices:  # it may grow faster, too
            self._compile_for(self._half())

    def _fitting_on_cpu(self):
        memory = CPU_MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        channels = self.audio.vae.config.block_out_channels[0]
        return int(memory / (CPU_BYTES_PER_PIXEL * channels * self._job.height * self._job.width))

    def _free(self):
        """Bytes of a device for what a batch needs."""
        memory = self._device.memory_stats()
        if memory is None:
            raise UserError("batch_size=0: this device does not tell its memory; give a number of samples at once")
        return MEMORY_SHARE * memory["bytes_limit"] - memory["bytes_in_use"] - TEXT_BYTES

    def _needed(self):
        """Bytes of a device for a batch, padding included, if no two of its prompts are the same."""
        texts = [join.memory_analysis() for join in self._join.values()]
        held = sum(text.argument_size_in_bytes + text.output_size_in_bytes for text in texts)
        programs = [program.memory_analysis() for program in self.programs.values()]
        return held + max(of.temp_size_in_bytes + of.output_size_in_bytes for of in programs)

    def _compile_for(self, batch_size):
        """Compiles for so many samples at once; for fewer, if the compiler finds that beyond the memory."""
        self.batch_size = batch_size
        try:
            return self._compile()
        except jax.errors.JaxRuntimeError as error:
            self.check_can_shrink(error)
        self._compile_for(self._half())

    def shrink(self) -> None:
        """Halves the batch size."""
        with timed("compile", self.seconds):
            self._compile_for(self._half())

    def check_can_shrink(self, error: jax.errors.JaxRuntimeError) -> None:
        """Logs that a batch failed for want of memory, where a smaller one may do.

        Raises:
          UserError: the batch size was asked for, or cannot be smaller. JaxRuntimeError: `error` has another cause.
        """
        if OUT_OF_MEMORY not in str(error):
            raise error
        if self.batch_size == self._devices:
            hint = "set a dtype of fewer bits, or a smaller width or window"
            raise UserError(f"one sample on each device is beyond the memory; {hint}") from error
        if not self._chosen:
            hint = f"set it to {self._half()} or less, or to 0, which chooses"
            raise UserError(f"batch_size={self.batch_size} is beyond the memory; {hint}") from error
        logging.warning("%d samples at once are beyond the memory; going on with %d", self.batch_size, self._half())

    def _half(self):
        return max(1, self.batch_size // self._devices // 2) * self._devices


def _bytes(tree):
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))


def _joined(b, texts):
    """Texts in the order of samples, negative before positive, leaves `[1, ...]` -> leaves `[b, 2, ...]` (or 1)."""
    return jax.tree.map(lambda *a: jnp.concatenate(a).reshape(b, -1, *a[0].shape[1:]), *texts)


def _check_choices(job):
    check_choice("solver", job.solver, SOLVERS)
    for term in job.terms:
        check_choice(f"{term}.view", job.terms[term].view, VIEWS)


def _check_fit(models, job):
    """The models must share one latent space and one schedule, and the canvas must fit them."""
    image, *others = models.values()
    for other in others:
        for name in ("latent_channels", "factor", "scaling_factor"):
            ours, theirs = getattr(image.vae.config, name), getattr(other.vae.config, name)
            if ours != theirs:
                raise UserError(
                    f"{image.source} and {other.source} do not share a latent space: "
                    f"the vae's {name} is {ours} in the one and {theirs} in the other"
                )
        # Where steps lie and how they end is the image model's to say; which noise a timestep means must be common.
        if not np.array_equal(image.schedule.alphas_cumprod(), other.schedule.alphas_cumprod()):
            raise UserError(f"{image.source} and {other.source} were trained on different noise schedules")
    for run in denoising_runs(job):
        image.schedule.timesteps(run.num_steps)
    factor = image.vae.config.factor
    # Halves of the latent must be equal, where a view takes it apart.
    halves = 2 if any(job.terms[term].view == "block_rearrange" for term in models) else 1
    for key, divisor in (("height", factor), ("width", factor * halves), ("window", factor)):
        if getattr(job, key) % divisor:
            raise UserError(
                f"{key}={getattr(job, key)}: must be a multiple of {divisor}, as the vae and the views need it"
            )
    cut = job.crop_image * decoding.CROPPED_COLUMNS + job.cutoff_latent * decoding.CROPPED_LATENTS * factor
    if job.width <= cut:
        raise UserError(f"width={job.width}: must be above {cut}, which crop_image or cutoff_latent drops")
