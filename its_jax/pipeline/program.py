"""Compiled stages for samples of one shape: encode, denoise, decode, vocode."""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from its_jax.pipeline import compile_times, decoding, progress, prompts, step_tables
from its_jax.pipeline.batching import BatchSize, fill_up, useful_batch
from its_jax.pipeline.components import Components
from its_jax.pipeline.methods.base import method_class
from its_jax.pipeline.progress import OnProgress, Progress
from its_jax.pipeline.prompt_encoder import TextStacker
from its_jax.pipeline.sample import Sample
from its_jax.settings.ids import batch_key, program_key
from its_jax.settings.schema import SampleSettings
from its_jax.settings.steps import active_steps, active_terms, denoising_runs, guided_steps, image_terms, term_prompts


class Program:
    """Compiled stages for settings that agree in `program_key`; those of a batch agree in `batch_key`.

    Args of the constructor:
      settings: of one of the samples. components: the models.
      pending: how many samples there are. batch_size: samples at once, 0 to choose.
      may_shrink: whether a requested batch size may be reduced if it does not fit in memory.
      workdir: where a method that takes long keeps its state, or None.
      load_seconds: how long it took to load the components for this program.

    Attributes:
      components: the models. stack_texts, method: compiled programs. mel: the vocoder's mel front end.
      seconds: duration of 'load' (of the components, if they were loaded for this program) and 'compile'.

    Raises:
      UserError: the settings do not fit the models, or the batch does not fit in memory.
    """

    def __init__(
        self,
        settings: SampleSettings,
        components: Components,
        *,
        pending: int = 1,
        batch_size: int = 0,
        may_shrink: bool = False,
        workdir: Path | None = None,
        load_seconds: float = 0.0,
    ):
        components.check(settings)
        self.components, self.mel = components, components.mel(settings.height)
        self._settings, self._workdir, self._key = settings, workdir, program_key(settings)
        self._logged = False
        self.seconds: dict[str, float] = {"load": load_seconds}
        place = components.placement
        adjustable = may_shrink or not batch_size
        self._size = BatchSize(self._compile, place.device, place.at_once, adjustable)
        cpu_pixels = settings.height * settings.width * components.vae.config.block_out_channels[0]
        with self._compiling(batch_size or useful_batch(pending, place.at_once, place.device)):
            self._size.choose(pending, batch_size, cpu_pixels=cpu_pixels, reserved=components.prompts.device_bytes)

    @contextlib.contextmanager
    def _compiling(self, batch_size):
        """Logs that programs for this batch size, or smaller ones, are compiled inside, and adds to `seconds`."""
        device = self.components.placement.device
        with timed("compile", self.seconds), compile_times.announced(self._key, batch_size, device):
            yield

    def _compile(self, batch_size):
        """Compiles a program for each stage from shapes alone; returns a function for the bytes that a batch needs."""
        settings, components, place = self._settings, self.components, self.components.placement
        self.stack_texts = TextStacker(components.prompts, components.models, place, settings, batch_size)
        method = method_class(settings.method)
        self.method = method(settings, components, self.stack_texts.shapes, batch_size, workdir=self._workdir)
        vocode = functools.partial(decoding.vocode, config=self.mel, method=settings.vocoder, wrap=settings.wrap)
        vocode = place.jit_per_device(vocode, (P(), P("data")))
        self._vocode = vocode.lower(components.vocoder, self.method.spectrogram).compile()
        return self.needed_bytes

    def needed_bytes(self) -> int:
        """Returns the bytes of a device that a batch needs, padding included, if all of its prompts differ."""
        analyses: list[Any] = [program.memory_analysis() for program in self.programs.values()]
        largest = max(found.temp_size_in_bytes + found.output_size_in_bytes for found in analyses)
        return self.stack_texts.bytes + largest

    @property
    def batch_size(self) -> int:
        """Returns the number of samples that are generated at once."""
        return self._size.value

    @property
    def programs(self) -> dict[str, jax.stages.Compiled]:
        """Returns the compiled programs that need memory, by stage."""
        return {**self.method.programs, "vocode": self._vocode}

    @property
    def devices_per_sample(self) -> int:
        """Returns the number of devices that share a sample."""
        return self.components.placement.devices_per_sample

    def __call__(
        self,
        batch: Sequence[SampleSettings],
        on_progress: OnProgress = progress.ignore,
        *,
        batch_index: int = 0,
    ) -> list[Sample]:
        """Generates up to `batch_size` samples; a smaller batch is filled up with copies.

        Args:
          on_progress: called about 20 times while the batch is denoised.
          batch_index: index of the first sample in the batch. At another index the last bits of a sample may differ.
        """
        self._check_batch(batch)
        filled = fill_up(batch, self.batch_size, batch_index)
        seconds, log = dict(self.seconds), not self._logged  # of the first batch only, as there may be thousands
        self._logged = True
        with timed("encode", seconds, log):
            texts = jax.block_until_ready(self.stack_texts(self.components.prompts.encode(filled)))
        own = slice(batch_index, batch_index + len(batch))  # without the copies

        def report(found: Progress) -> None:
            on_progress(found._replace(preview=lambda: _crop(batch, found.preview()[own])))

        with timed("denoise", seconds, log):
            generated = self.method.generate(filled, texts, report)
        seconds["denoise"] += generated.seconds_before
        with timed("decode", seconds, log):
            spectrogram, images = jax.block_until_ready(self.method.render(filled, generated.latents))
        with timed("vocode", seconds, log):
            audio = jax.block_until_ready(self._vocode(self.components.vocoder, spectrogram))
        arrays = jax.device_get((images, spectrogram, audio, generated.latents, generated.failed_at))
        return [
            self._sample(filled[i], i, jax.tree.map(lambda a, i=i: a[i], arrays), seconds, generated.state_folder)
            for i in range(batch_index, batch_index + len(batch))
        ]

    def _sample(self, settings, index, arrays, seconds, state_folder):
        images, spectrogram, audio, latents, failed_at = arrays
        if settings.crop_image:
            images = tuple(decoding.crop(image, audio)[0] for image in images)
            spectrogram, audio = decoding.crop(spectrogram, audio)
        return Sample(
            settings=settings,
            images={name: decoding.as_png(image) for name, image in zip(image_terms(settings), images, strict=True)},
            spectrogram=decoding.as_png(spectrogram),
            audio=audio,
            sampling_rate=self.mel.sampling_rate,
            latents=latents,
            failed_at=int(failed_at),
            models=self.components.identities,
            batch_index=index,
            batch_size=self.batch_size,
            devices_per_sample=self.devices_per_sample,
            seconds=seconds,
            state_folder=state_folder,
        )

    def _check_batch(self, batch):
        if program_key(batch[0]) != self._key:
            raise ValueError(
                "samples of one program must agree in models, views, sizes, dtype, vocoder and which terms are guided"
            )
        key = batch_key(batch[0])
        if any(batch_key(settings) != key for settings in batch[1:]):
            raise ValueError("samples of one batch must agree in solver, steps and the kind of noise, too")

    def check(self, batch: Sequence[SampleSettings]) -> None:
        """Raises `UserError` for settings whose steps the models do not allow."""
        for settings in batch:
            for run in denoising_runs(settings):
                step_tables.step_tables(self.components.schedule, [run])

    def check_init_file(self, settings: SampleSettings) -> None:
        """Raises `UserError` if the file that a sample starts from cannot be used."""
        self.components.init_latents.load(settings)

    def warn(self, batch: Sequence[SampleSettings]) -> None:
        """Logs a warning for terms that are never active or guided, and for prompts that models do not understand."""
        for name in dict.fromkeys(name for settings in batch for name in active_terms(settings)):
            active = [settings for settings in batch if name in active_terms(settings)]
            if any(not active_steps(settings, name) for settings in active):
                logging.warning("%s is never active: check its start_step and stop_step", name)
            elif any(
                settings.terms[name].guidance_scale != 1 and not guided_steps(settings, name) for settings in active
            ):
                logging.warning("%s is never guided: check its guidance_start_step and guidance_stop_step", name)
            model = self.components.models[name]
            found = dict.fromkeys(prompt for settings in active for prompt in reversed(term_prompts(settings, name)))
            prompts.warn_about_prompts(model.tokenizer, found, vocabulary=model.vocabulary)

    def shrink(self) -> None:
        """Compiles for half the batch size."""
        with self._compiling(self.batch_size // 2):
            self._size.shrink()

    def check_can_shrink(self, error: jax.errors.JaxRuntimeError) -> None:
        """Raises unless `error` says that a batch does not fit in memory and a smaller one may fit."""
        self._size.check_can_shrink(error)


def _crop(batch, images):
    """Crops the images of those samples that ask for it."""
    pairs = zip(batch, images, strict=True)
    return [decoding.crop_image(image) if settings.crop_image else image for settings, image in pairs]


@contextlib.contextmanager
def timed(stage: str, seconds: dict[str, float], log: bool = True) -> Iterator[None]:
    """Adds a stage's duration to `seconds`, and logs it."""
    start = time.perf_counter()
    yield
    spent = time.perf_counter() - start
    seconds[stage] = seconds.get(stage, 0.0) + spent
    if log:
        logging.info("%-8s %.2f s", stage, spent)
