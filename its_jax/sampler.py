"""Jobs of one shape -> samples: the beads encode, denoise, decode and vocode on one string, compiled once."""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from its_jax import denoise, load, stages
from its_jax.errors import UserError
from its_jax.jobs import TERMS

# Beyond this many the CPU gains nothing from a larger batch.
CPU_BATCH = 4
# Rough peak of full-size models in float32, UNet or VAE: bytes for each pixel of a sample.
CPU_BYTES_PER_PIXEL = 8192
MAX_BATCH_PER_DEVICE = 64
MEMORY_SHARE = 0.9
# A batch is denoised in so many calls, between which progress is shown; the bits do not depend on it.
PROGRESS_CALLS = 20


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one job gives.

    Attributes:
      picture: float32 `[H, W, 3]` in [0, 1]. spectrogram: `[H, W]` in [0, 1], what was vocoded.
      waveform: float32 `[samples]` in [-1, 1]. latents: float32 `[h, w, 4]`.
      position: its place in the batch. failed_at: first step with a non-finite latent, or -1.
    """

    picture: np.ndarray
    spectrogram: np.ndarray
    waveform: np.ndarray
    latents: np.ndarray
    position: int
    failed_at: int


@contextlib.contextmanager
def timed(stage: str, seconds: dict[str, float]):
    """Logs a stage's duration, and adds it to `seconds`."""
    start = time.perf_counter()
    yield
    spent = time.perf_counter() - start
    seconds[stage] = seconds.get(stage, 0.0) + spent
    logging.info("%-8s %.2f s", stage, spent)


class Sampler:
    """Loaded models and compiled programs for jobs that agree in all but prompts, seeds and numbers.

    Args of the constructor:
      job: one of the jobs. pending: how many there are. batch_size: samples at once, 0 to choose.

    Attributes:
      image, audio: `load.Model`. batch_size: a multiple of the device count. seconds: stage -> duration so far.

    Raises:
      UserError: for settings that do not fit the models, or models that do not fit each other.
    """

    def __init__(self, job: Mapping[str, Any], *, pending: int, batch_size: int = 0):
        self.seconds: dict[str, float] = {}
        self._dtype = jnp.dtype(job["dtype"])
        mesh = load.mesh()
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._sharded = NamedSharding(mesh, PartitionSpec("data"))
        with timed("load", self.seconds):
            kw = dict(dtype=self._dtype, sharding=self._replicated)
            parts = ("text_encoder", "unet", "vae")
            self.image = load.load(job["image"]["model"], parts=parts, **kw)
            self.audio = load.load(job["audio"]["model"], parts=(*parts, "vocoder"), share=[self.image], **kw)
        _check_fit(self.image, self.audio, job)
        self._static = _static(job)
        self.mel = stages.mel_config(self.audio.vocoder.config, job["height"])
        self.batch_size = self._batch_size(job, pending, batch_size, mesh.size)
        with timed("compile", self.seconds):
            self._compile(job)

    def __call__(
        self, jobs: Sequence[Mapping[str, Any]], on_steps: Callable[[int], None] = lambda steps: None
    ):
        """Makes the samples of up to `batch_size` jobs; a smaller batch is filled up with copies.

        Args:
          on_steps: called with the number of steps done since the last call.

        Returns:
          list of `Sample`, one per job.
        """
        for job in jobs:
            if _static(job) != self._static:
                raise ValueError("a sampler's jobs must agree in models, sizes, dtype, vocoder and views")
        filled = [*jobs, *[jobs[-1]] * (self.batch_size - len(jobs))]
        with timed("encode", self.seconds):
            terms = jax.block_until_ready(self._terms(filled))
        with timed("denoise", self.seconds):
            state = self._denoise_batch(filled, terms, on_steps)
        with timed("decode", self.seconds):
            picture, spectrogram = jax.block_until_ready(self._decode_batch(state.x))
        with timed("vocode", self.seconds):
            waveform = jax.block_until_ready(self._vocode(self.audio.vocoder, spectrogram))
        arrays = jax.device_get((picture, spectrogram, waveform, state.x, state.failed_at))
        return [
            Sample(*(array[i] for array in arrays[:4]), position=i, failed_at=int(arrays[4][i]))
            for i in range(len(jobs))
        ]

    def _compile(self, job):
        """Ahead of time, from shapes alone; `_encode`, `_denoise`, `_decode` and `_vocode` are the programs."""
        b, models = self.batch_size, dict(zip(TERMS, (self.image, self.audio), strict=True))
        self._encode, terms = {}, []
        for name, model in models.items():
            n, d = model.tokenizer.model_max_length, model.text_encoder.config.hidden_size
            ids = self._abstract((b, 2, n), jnp.int32)
            self._encode[name] = stages.encode_texts.lower(model.text_encoder, ids).compile()
            terms.append(
                denoise.Term(
                    texts=self._abstract((b, 2, n, d), self._dtype),
                    guidance_scale=self._abstract((b,)),
                    weights=self._abstract((b, self.image.schedule.num_train_timesteps)),
                    view=denoise.VIEWS[job[name]["view"]],
                )
            )
        rows, _, active = self._tables([job] * b)
        latents, zero = self._abstract((b, *self._latent_shape(job))), self._put(np.int32(0))
        state = denoise.State(latents, latents, self._abstract((b,), jnp.int32))
        self._denoise = denoise.denoise.lower(
            self._models, tuple(terms), rows, active, state, zero, zero
        ).compile()
        h, w, c = self._latent_shape(job)
        kept = self._abstract((b, h, w - stages.CROPPED_LATENTS * job["cutoff_latent"], c))
        self._decode = {
            part: stages.decode_latents.lower(model.vae, kept).compile()
            for part, model in models.items()
            if part == "image" or model.vae is not self.image.vae
        }
        spectrogram = self._abstract((b, job["height"], kept.shape[2] * self.image.vae.config.factor))
        self._vocode = stages.vocode.lower(
            self.audio.vocoder, spectrogram, self.mel, job["vocoder"]
        ).compile()

    def _abstract(self, shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._sharded)

    def _latent_shape(self, job):
        vae = self.image.vae.config
        return job["height"] // vae.factor, job["width"] // vae.factor, vae.latent_channels

    @property
    def _models(self):
        return (self.image.unet, self.audio.unet)

    def _put(self, tree, sharded=False):
        return jax.device_put(tree, self._sharded if sharded else self._replicated)

    def _terms(self, jobs):
        """The terms without weights, which `_tables` gives."""
        terms = []
        for name, model in zip(TERMS, (self.image, self.audio), strict=True):
            prompts = [job[name][key] for job in jobs for key in ("negative_prompt", "prompt")]
            ids = stages.tokenize(model.tokenizer, prompts, vocabulary=model.vocabulary).reshape(
                len(jobs), 2, -1
            )
            scale = np.array([job[name]["guidance_scale"] for job in jobs], np.float32)
            terms.append(
                denoise.Term(
                    texts=self._encode[name](model.text_encoder, self._put(ids, sharded=True)),
                    guidance_scale=self._put(scale, sharded=True),
                    weights=None,
                    view=denoise.VIEWS[jobs[0][name]["view"]],
                )
            )
        return terms

    def _with_weights(self, terms, weights):
        return tuple(dataclasses.replace(term, weights=w) for term, w in zip(terms, weights, strict=True))

    def _tables(self, jobs):
        schedule, steps = self.image.schedule, jobs[0]["num_steps"]
        rows = denoise.solver_rows(schedule, steps, jobs[0]["solver"])
        weights, active = denoise.term_weights(
            [[job[name]["weight"] for job in jobs] for name in TERMS],
            [[job[name]["start_step"] for job in jobs] for name in TERMS],
            steps,
            schedule,
        )
        return self._put(rows), [self._put(w, sharded=True) for w in weights], self._put(active)

    def _initial_state(self, jobs):
        seeds = self._put(np.array([job["seed"] for job in jobs], np.uint32), sharded=True)
        noise = jax.jit(denoise.initial_noise, static_argnums=1)(seeds, self._latent_shape(jobs[0]))
        return jax.jit(denoise.initial_state)(noise)

    def _denoise_batch(self, jobs, terms, on_steps):
        steps = jobs[0]["num_steps"]
        rows, weights, active = self._tables(jobs)
        terms, state = self._with_weights(terms, weights), self._initial_state(jobs)
        bounds = sorted({round(steps * i / PROGRESS_CALLS) for i in range(PROGRESS_CALLS + 1)})
        marks = [self._put(np.int32(bound)) for bound in bounds]
        with jax.transfer_guard("disallow"):
            for i in range(len(bounds) - 1):
                state = self._denoise(self._models, terms, rows, active, state, marks[i], marks[i + 1])
                jax.block_until_ready(state)
                on_steps(bounds[i + 1] - bounds[i])
        return state

    def _cut(self, latents):
        return latents[:, :, : -stages.CROPPED_LATENTS] if self._static["cutoff_latent"] else latents

    def _decode_batch(self, latents):
        latents = self._cut(latents)
        picture = self._decode["image"](self.image.vae, latents)
        audio = self._decode["audio"](self.audio.vae, latents) if "audio" in self._decode else picture
        return picture, audio.mean(axis=-1)

    def _batch_size(self, job, pending, asked, devices):
        """The batch size, rounded up to a multiple of the devices."""
        if asked:
            return -(-asked // devices) * devices
        wanted = -(-min(pending, MAX_BATCH_PER_DEVICE * devices) // devices) * devices
        if jax.default_backend() == "cpu":
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            fitting = int(free / 2 / (CPU_BYTES_PER_PIXEL * job["height"] * job["width"]))
            return -(-max(1, min(wanted, CPU_BATCH, fitting)) // devices) * devices
        self.batch_size = devices
        with timed("compile", self.seconds):
            self._compile(job)
        per_sample = max(
            program.memory_analysis().temp_size_in_bytes
            for program in (self._denoise, self._vocode, *self._decode.values())
        )
        memory = jax.local_devices()[0].memory_stats()
        free = MEMORY_SHARE * memory["bytes_limit"] - memory["bytes_in_use"]
        fitting = max(1, int(free / max(per_sample, 1)))
        return min(wanted, 2 ** int(np.log2(fitting)) * devices)


def _static(job):
    """What jobs must share to share a compiled program and a solver table."""
    keys = ("height", "width", "dtype", "vocoder", "cutoff_latent", "solver", "num_steps")
    return {key: job[key] for key in keys} | {name: (job[name]["model"], job[name]["view"]) for name in TERMS}


def _check_fit(image, audio, job):
    """The two models must share one latent space and one schedule, and the canvas must fit them."""
    for name in ("latent_channels", "factor", "scaling_factor"):
        ours, theirs = getattr(image.vae.config, name), getattr(audio.vae.config, name)
        if ours != theirs:
            raise UserError(
                f"{image.source} and {audio.source} do not share a latent space: "
                f"the vae's {name} is {ours} in the one and {theirs} in the other"
            )
    if image.schedule != audio.schedule:
        raise UserError(f"{image.source} and {audio.source} were trained on different noise schedules")
    for key in ("height", "width"):
        if job[key] % image.vae.config.factor:
            raise UserError(
                f"{key}={job[key]}: must be a multiple of {image.vae.config.factor}, the vae's factor"
            )
    least = stages.CROPPED_COLUMNS + image.vae.config.factor
    if (job["crop_image"] or job["cutoff_latent"]) and job["width"] < least:
        raise UserError(f"width={job['width']}: crop_image and cutoff_latent need {least} or more")
    for name in TERMS:
        if job[name]["view"] not in denoise.VIEWS:
            known = ", ".join(denoise.VIEWS)
            raise UserError(f"{name}.view={job[name]['view']!r} is not known here; choose one of {known}")
