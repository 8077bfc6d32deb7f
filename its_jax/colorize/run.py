"""Colorizes the finished samples of a work folder."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax

from its_jax import gallery
from its_jax.colorize import outputs
from its_jax.colorize.colorizer import Colorizer
from its_jax.colorize.factorized_colorizer import FactorizedColorizer
from its_jax.colorize.latent_colorizer import LatentColorizer
from its_jax.colorize.outputs import ColorTask
from its_jax.colorize.program import ColorProgram, ColorResult
from its_jax.colorize.settings import ColorSettings
from its_jax.errors import UserError
from its_jax.generate.runner import running
from its_jax.pipeline.batching import OUT_OF_MEMORY
from its_jax.pipeline.placement import DataParallel
from its_jax.runtime import cache
from its_jax.storage import files, locks, samples
from its_jax.storage.samples import Sample

_LOCK = "colors"

# Returns a colorizer from settings, the source of the latent model ("" for method `factorized`), and all prompts.
Load = Callable[[ColorSettings, str, Sequence[str]], Colorizer]


def load_colorizer(
    settings: ColorSettings, latent_model: str, prompts: Sequence[str], placement: DataParallel | None = None
) -> Colorizer:
    """Loads the models of a method, by default on all local devices; see `Load`."""
    if latent_model:
        return LatentColorizer(settings, latent_model, prompts, placement)
    return FactorizedColorizer(settings, prompts, placement)


def run(settings: ColorSettings, workdir: Path, select: str, *, load: Load = load_colorizer) -> None:
    """Generates the colored images of finished samples that do not exist yet.

    Args:
      select: 'all', 'starred', or 'ID,ID'.
      load: loads the models.

    Raises:
      UserError: there is nothing to colorize, models are not available, or some images could not be generated (the
        message names them; all others are written).
    """
    selected = outputs.select_samples(samples.open_samples(workdir), select, workdir)
    with locks.hold(workdir, _LOCK, advice="wait for it, or stop it"):
        tasks, faults = _find_tasks(settings, selected)
        logging.info("%d images of %d samples to generate", len(tasks), len(selected))
        if tasks:
            cache.keep_programs()
        # One model after the other, so that a single one is in memory.
        for model, group in _grouped(tasks, lambda task: task.settings.get("latent_model", "")):
            faults += _colorize(settings, model, group, load)
        gallery_faults = _write_gallery(workdir)
    if faults:
        raise UserError(f"not colorized: {'; '.join(faults)}")
    if gallery_faults:  # as a rule, the gallery cannot show the samples that could not be colorized
        raise UserError("; ".join(gallery_faults))


def _find_tasks(settings: ColorSettings, selected: Iterable[Sample]) -> tuple[list[ColorTask], list[str]]:
    """Returns the missing images, and what is wrong with samples that cannot be colorized.

    Videos that are missing beside their images are written at once.
    """
    tasks: list[ColorTask] = []
    faults = []
    for sample in selected:
        try:
            trials = [settings.for_trial(sample.record, trial) for trial in range(settings.trials)]
            missing, without_video = outputs.missing(sample, trials, settings.videos)
            for name in without_video:
                outputs.write_video(sample, name, sample.read_image(name), sample.coloring_record(name))
            tasks += missing
        except UserError as error:
            faults.append(str(error))
    return tasks, faults


def _grouped(tasks: Iterable[ColorTask], key: Callable) -> Iterator[tuple]:
    """Yields each value of `key`, in rising order, with the list of its tasks."""
    for value, group in itertools.groupby(sorted(tasks, key=key), key=key):
        yield value, list(group)


def _colorize(settings: ColorSettings, model: str, tasks: Sequence[ColorTask], load: Load) -> list[str]:
    """Generates and writes images by one model; returns why some could not be written."""
    prompts = list(dict.fromkeys(task.settings["prompt"] for task in tasks))
    colorizer = _load_fitting(load, settings, model, prompts)
    program = ColorProgram(colorizer, settings)

    def write(task: ColorTask, result: ColorResult) -> None:
        outputs.write(task, result.image, result.about)

    steps = len(tasks) * colorizer.num_steps
    options = dict(name=lambda task: task.label, fault=lambda result: result.fault)
    with running(steps, write, label="colorize", **options) as runner:
        for _, batch in _grouped(tasks, lambda task: task.batch_key):
            runner.run_all(program, batch)
    return list(runner.faults.values())


def _load_fitting(load, settings, model, prompts):
    try:
        return load(settings, model, prompts)
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        raise UserError(
            f"colorize.dtype={settings.dtype}: the models do not fit in memory; use one of fewer bits or smaller models"
        ) from error


def _write_gallery(workdir):
    """Writes the gallery of all samples; returns why it could not be written."""
    try:
        if files.is_local(workdir):
            logging.info("gallery: %s", gallery.write(workdir))
    except UserError as error:
        return [str(error)]
    return []
