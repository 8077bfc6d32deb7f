"""Generates the samples of a config and writes them to a work folder."""

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from its_jax.errors import UserError
from its_jax.generate.runner import BatchRunner, running
from its_jax.pipeline.methods import resume
from its_jax.pipeline.pipeline import Pipeline
from its_jax.pipeline.program import timed
from its_jax.pipeline.sample import Sample, encode_files
from its_jax.runtime.cache import keep_programs
from its_jax.scoring import registry
from its_jax.scoring.item import Item, Scorer
from its_jax.settings.ids import sample_id
from its_jax.settings.records import RECORD, VIDEO, unfinished
from its_jax.settings.schema import RunOptions, SampleSettings
from its_jax.settings.steps import image_terms, total_steps
from its_jax.storage.writers import FolderWriter, ShardWriter


def write_samples(
    pipeline: Pipeline,
    requested: Sequence[SampleSettings],
    workdir: Path,
    options: RunOptions,
    *,
    batch_index: int = 0,
) -> bool:
    """Generates and writes samples that differ only in their seed; returns False if all of them existed.

    Args:
      batch_index: index of the first sample of each batch.

    Raises:
      UserError: a setting is wrong, the folder cannot be written, or samples are not finite (all others are written).
    """
    _check_writable(workdir)
    pending = unfinished(requested, workdir, _file_names(requested[0], options.video))
    if finished := len(requested) - len(pending):
        logging.info("%d of %d samples are in %s already", finished, len(requested), workdir)
    if not pending:
        return False
    keep_programs()
    program = pipeline.compile(
        pending[0],
        pending=len(pending),
        batch_size=options.batch_size,
        devices_per_sample=options.devices_per_sample,
        workdir=workdir,
    )
    program.check_init_file(pending[0])
    program.warn(pending)
    device = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    logging.info("%d samples, %d at once, on %s", len(pending), program.batch_size, device)
    store, done = FolderWriter(workdir), 0
    store.remove_leftovers(map(sample_id, pending))
    with writing(store, pending, options) as runner:
        while done < len(pending):
            batch = pending[done : done + program.batch_size - batch_index]
            done += runner.run(program, batch, batch_index=batch_index)
    report(workdir, runner)
    return True


@contextlib.contextmanager
def writing(
    store: FolderWriter | ShardWriter,
    pending: Sequence[SampleSettings],
    options: RunOptions,
    scorers: Sequence[Scorer] = (),
) -> Iterator[BatchRunner]:
    """Gives a runner that scores samples and adds them to a store; its progress bar counts the steps of `pending`."""

    def write(settings: SampleSettings, sample: Sample) -> None:
        write_sample(store, sample, options, scorers)

    def flush(samples: Sequence[Sample]) -> None:
        store.flush()
        for folder in {sample.state_folder for sample in samples if sample.state_folder}:
            resume.remove_state(folder)

    steps = sum(map(total_steps, pending))
    of_samples = dict(name=sample_id, fault=lambda sample: sample.fault, flush=flush)
    with running(steps, write, label="denoise", **of_samples) as runner:
        yield runner
        with timed("write", {}):
            runner.finish()
        store.close()


def write_sample(
    store: FolderWriter | ShardWriter, sample: Sample, options: RunOptions, scorers: Sequence[Scorer] = ()
) -> None:
    """Scores a sample and adds it to a store, the record last."""
    sample = dataclasses.replace(sample, loudness=options.loudness)
    record = sample.record(options.video)
    named: list[Any] = [scorer for scorer in scorers if hasattr(scorer, "identity")]
    record["models"] |= {scorer.name: scorer.identity for scorer in named}
    item = Item(sample.settings, sample.images, sample.spectrogram, sample.audio, sample.sampling_rate)
    record |= registry.score_item(scorers, item)
    store.add(sample.id, encode_files(sample, record, type(store).audio_file))


def report(workdir: Path, runner: BatchRunner, faults: Sequence[str] = ()) -> None:
    """Logs how many samples were written.

    Raises:
      UserError: some could not be written, or there are other faults.
    """
    logging.info("%d samples in %s", len(runner.written), workdir)
    if faults := [*faults, *runner.faults.values()]:
        raise UserError(f"not written: {'; '.join(faults)}")


def _file_names(settings, video):
    images = (f"{term}.png" for term in image_terms(settings))
    return *images, "spectrogram.png", "audio.wav", *[VIDEO] * video, RECORD


def _check_writable(workdir):
    try:
        # The folder itself is not made yet, so that a model that is refused later leaves no empty folder.
        with tempfile.TemporaryFile(dir=next(path for path in (workdir, *workdir.parents) if path.exists())):
            pass
    except OSError as error:
        raise UserError(f"workdir {workdir}: cannot be written ({error.strerror}); choose another folder") from error
