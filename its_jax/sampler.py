"""Jobs of one shape -> samples: the beads encode, denoise, decode and vocode on one string, compiled once."""

import contextlib
import dataclasses
import functools
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
# Rough peak of full-size models in float32: bytes for each pixel of a sample and each channel that the VAE has at full
# resolution.
CPU_BYTES_PER_PIXEL = 64
# Of all memory rather than of what is free just now, so that a machine makes the same batches, hence bits, of a job.
CPU_MEMORY_SHARE = 0.25
MAX_BATCH_PER_DEVICE = 64
MEMORY_SHARE = 0.9
_PARTS = {"image": ("text_encoder", "unet", "vae"), "audio": ("text_encoder", "unet", "vae", "vocoder")}
# A batch is denoised in so many calls, between which progress is shown; the bits do not depend on it.
PROGRESS_CALLS = 20


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one job gives.

    Attributes:
      picture: float32 `[H, W, 3]` in [0, 1], as `view` lays it out. spectrogram: `[H, W]` in [0, 1],
        what was vocoded, in 256 levels.
      waveform: float32 `[samples]` in [-1, 1]. latents: float32 `[h, w, 4]`.
      position: its place in the batch. failed_at: first step with a non-finite latent, or -1.
      seconds: stage -> duration of its batch, with those of loading and compiling.
    """

    picture: np.ndarray
    spectrogram: np.ndarray
    waveform: np.ndarray
    latents: np.ndarray
    position: int
    failed_at: int
    seconds: Mapping[str, float]

    @property
    def fault(self) -> str | None:
        """Why it cannot be written, or None."""
        if self.failed_at >= 0:
            return f"the latents are not finite from step {self.failed_at} on"
        if not all(np.isfinite(array).all() for array in (self.picture, self.spectrogram, self.waveform)):
            return "the latents are finite, but what they decode to is not: use a dtype of greater range"
        return None


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
      image, audio: `load.Model`. batch_size: a multiple of the device count. mel: the vocoder's front end.
      seconds: duration of 'load' and 'compile'.

    Raises:
      UserError: for settings that do not fit the models, or models that do not fit each other.
    """

    def __init__(self, job: Mapping[str, Any], *, pending: int, batch_size: int = 0):
        _check_choices(job)
        self.seconds: dict[str, float] = {}
        self._dtype = jnp.dtype(job["dtype"])
        mesh = load.mesh()
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._sharded = NamedSharding(mesh, PartitionSpec("data"))
        for name, parts in _PARTS.items():
            load.check_parts(job[name]["model"], parts)
        with timed("load", self.seconds):
            outlines = [
                load.outline(job[name]["model"], parts=parts, dtype=self._dtype) for name, parts in _PARTS.items()
            ]
            _check_fit(*outlines, job)
            self.mel = stages.mel_config(outlines[1].vocoder.config, job["height"])
            self.image = load.fill(outlines[0], sharding=self._replicated)
            self.audio = load.fill(outlines[1], sharding=self._replicated, share=[self.image])
        self._static = _static(job)
        self.batch_size = self._batch_size(job, pending, batch_size, mesh.size)
        with timed("compile", self.seconds):
            self._compile(job)

    def __call__(
        self,
        jobs: Sequence[Mapping[str, Any]],
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
        for job in jobs:
            if _static(job) != self._static:
                raise ValueError(
                    "jobs of one sampler must agree in models, views, sizes, dtype, vocoder, solver and steps"
                )
        filled = [*[jobs[0]] * position, *jobs]
        filled += [jobs[-1]] * (self.batch_size - len(filled))
        seconds = dict(self.seconds)
        with timed("encode", seconds):
            terms = jax.block_until_ready(self._terms(filled))
        with timed("denoise", seconds):
            state = self._denoise_batch(filled, terms, lambda steps: on_steps(steps * len(jobs)))
        with timed("decode", seconds):
            picture, spectrogram = jax.block_until_ready(self._decode(state.x, self.image.vae, self._audio_vae))
        with timed("vocode", seconds):
            waveform = jax.block_until_ready(self._vocode(self.audio.vocoder, spectrogram))
        *arrays, failed_at = jax.device_get((picture, spectrogram, waveform, state.x, state.failed_at))
        return [
            Sample(*(array[i] for array in arrays), position=i, failed_at=int(failed_at[i]), seconds=seconds)
            for i in range(position, position + len(jobs))
        ]

    def warn(self, jobs: Sequence[Mapping[str, Any]]) -> None:
        """Logs a warning for each prompt that is cut off, or has words that its model does not know."""
        for name, model in self._by_term.items():
            if any(job[name]["start_step"] >= job["num_steps"] for job in jobs):
                logging.warning("%s.start_step is beyond the last step: this model takes no part", name)
            prompts = dict.fromkeys(job[name][key] for job in jobs for key in ("prompt", "negative_prompt"))
            stages.warn_of_prompts(model.tokenizer, prompts, vocabulary=model.vocabulary)

    def _compile(self, job):
        """Ahead of time, from shapes alone: `_encode`, `_start`, `_denoise`, `_decode` and `_vocode`."""
        b, (h, w, c) = self.batch_size, self._latent_shape(job)
        self._encode, terms = {}, []
        for name, model in self._by_term.items():
            n, d = model.tokenizer.model_max_length, model.text_encoder.config.hidden_size
            ids = self._abstract((b, 2, n), jnp.int32)
            self._encode[name] = stages.encode_texts.lower(model.text_encoder, ids).compile()
            terms.append(
                denoise.Term(
                    texts=self._abstract((b, 2, n, d), self._dtype),
                    guidance_scale=self._abstract((b,)),
                    weights=self._abstract((b, self.image.schedule.num_train_timesteps)),
                    view=_view(job, name),
                )
            )
        start = jax.jit(_initial_state, static_argnums=1, out_shardings=self._sharded)
        self._start = start.lower(self._abstract((b,), jnp.uint32), (h, w, c)).compile()
        rows, _, active = self._tables([job] * b)
        latents, zero = self._abstract((b, h, w, c)), self._put(np.int32(0))
        state = denoise.State(latents, latents, self._abstract((b,), jnp.int32))
        self._denoise = denoise.denoise.lower(self._unets, tuple(terms), rows, active, state, zero, zero).compile()
        look = None if job["view"] == "identity" else _view(job, "image").look
        decode = stages.decode.lower(latents, self.image.vae, self._audio_vae, look, job["cutoff_latent"])
        self._decode = decode.compile()
        spectrogram = self._abstract(decode.out_info[1].shape)
        vocode = functools.partial(stages.vocode, config=self.mel, method=job["vocoder"])
        # Each device its own: left to itself, XLA gathers the batch for Griffin-Lim's FFTs.
        specs = dict(in_specs=(PartitionSpec(), PartitionSpec("data")), out_specs=PartitionSpec("data"))
        each = jax.jit(jax.shard_map(vocode, mesh=self._sharded.mesh, check_vma=False, **specs))
        self._vocode = each.lower(self.audio.vocoder, spectrogram).compile()

    def _abstract(self, shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._sharded)

    def _latent_shape(self, job):
        vae = self.image.vae.config
        return job["height"] // vae.factor, job["width"] // vae.factor, vae.latent_channels

    @property
    def _by_term(self):
        return {"image": self.image, "audio": self.audio}

    @property
    def _unets(self):
        return tuple(model.unet for model in self._by_term.values())

    @property
    def _audio_vae(self):
        """None where it is the image model's: then one decoding does for both."""
        return None if self.audio.vae is self.image.vae else self.audio.vae

    def _put(self, tree, sharded=False):
        return jax.device_put(tree, self._sharded if sharded else self._replicated)

    def _terms(self, jobs):
        """The terms without weights, which `_tables` gives."""
        terms = []
        for name, model in self._by_term.items():
            prompts = [job[name][key] for job in jobs for key in ("negative_prompt", "prompt")]
            ids = stages.tokenize(model.tokenizer, prompts).reshape(len(jobs), 2, -1)
            scale = np.array([job[name]["guidance_scale"] for job in jobs], np.float32)
            terms.append(
                denoise.Term(
                    texts=self._encode[name](model.text_encoder, self._put(ids, sharded=True)),
                    guidance_scale=self._put(scale, sharded=True),
                    weights=None,
                    view=_view(jobs[0], name),
                )
            )
        return terms

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

    def _denoise_batch(self, jobs, terms, on_steps):
        steps = jobs[0]["num_steps"]
        rows, weights, active = self._tables(jobs)
        terms = tuple(dataclasses.replace(term, weights=w) for term, w in zip(terms, weights, strict=True))
        state = self._start(self._put(np.array([job["seed"] for job in jobs], np.uint32), sharded=True))
        bounds = sorted({round(steps * i / PROGRESS_CALLS) for i in range(PROGRESS_CALLS + 1)})
        marks = [self._put(np.int32(bound)) for bound in bounds]
        with jax.transfer_guard("disallow"):
            for i in range(len(bounds) - 1):
                state = self._denoise(self._unets, terms, rows, active, state, marks[i], marks[i + 1])
                jax.block_until_ready(state)
                on_steps(bounds[i + 1] - bounds[i])
        return state

    def _batch_size(self, job, pending, asked, devices):
        """The batch size, rounded up to a multiple of the devices."""
        if asked:
            return -(-asked // devices) * devices
        wanted = -(-min(pending, MAX_BATCH_PER_DEVICE * devices) // devices) * devices
        if jax.default_backend() == "cpu":
            memory = CPU_MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            channels = self.image.vae.config.block_out_channels[0]
            fitting = int(memory / (CPU_BYTES_PER_PIXEL * channels * job["height"] * job["width"]))
            return -(-max(1, min(wanted, CPU_BATCH, fitting)) // devices) * devices
        self.batch_size = devices
        with timed("compile", self.seconds):
            self._compile(job)
        per_sample = max(
            program.memory_analysis().temp_size_in_bytes for program in (self._denoise, self._decode, self._vocode)
        )
        memory = jax.local_devices()[0].memory_stats()
        if memory is None:
            raise UserError("batch_size=0: this device does not tell its memory; give a number of samples at once")
        free = MEMORY_SHARE * memory["bytes_limit"] - memory["bytes_in_use"]
        fitting = max(1, int(free / max(per_sample, 1)))
        return min(wanted, 2 ** int(np.log2(fitting)) * devices)


def _initial_state(seeds, shape):
    return denoise.initial_state(denoise.initial_noise(seeds, shape))


def _static(job):
    """What jobs must share to share a compiled program and a solver table."""
    keys = ("height", "width", "dtype", "view", "vocoder", "cutoff_latent", "solver", "num_steps")
    return {key: job[key] for key in keys} | {name: job[name]["model"] for name in TERMS}


def _view(job, name):
    """The latent lies as the spectrogram does: only the image model may see it otherwise."""
    return denoise.VIEWS[job["view"] if name == "image" else "identity"]


def _check_choices(job):
    for key, known in (("solver", denoise.SOLVERS), ("view", denoise.VIEWS)):
        if job[key] not in known:
            raise UserError(f"{key}={job[key]!r} is not known here; choose one of {', '.join(known)}")


def _check_fit(image, audio, job):
    """The two models must share one latent space and one schedule, and the canvas must fit them."""
    for name in ("latent_channels", "factor", "scaling_factor"):
        ours, theirs = getattr(image.vae.config, name), getattr(audio.vae.config, name)
        if ours != theirs:
            raise UserError(
                f"{image.source} and {audio.source} do not share a latent space: "
                f"the vae's {name} is {ours} in the one and {theirs} in the other"
            )
    # Where steps lie and how they end is the image model's to say; which noise a timestep means must be common.
    if not np.array_equal(image.schedule.alphas_cumprod(), audio.schedule.alphas_cumprod()):
        raise UserError(f"{image.source} and {audio.source} were trained on different noise schedules")
    image.schedule.timesteps(job["num_steps"])
    factor = image.vae.config.factor
    # Halves of the latent must be equal, where a view takes it apart.
    halves = 1 if job["view"] == "identity" else 2
    for key, divisor in (("height", factor), ("width", factor * halves)):
        if job[key] % divisor:
            raise UserError(f"{key}={job[key]}: must be a multiple of {divisor}, as the vae and the views need it")
    cut = job["crop_image"] * stages.CROPPED_COLUMNS + job["cutoff_latent"] * stages.CROPPED_LATENTS * factor
    if job["width"] <= cut:
        raise UserError(f"width={job['width']}: must be above {cut}, which crop_image or cutoff_latent drops")
