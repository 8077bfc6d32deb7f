"""Generates samples batch by batch, and writes each batch while the next one is generated."""

import concurrent.futures
import contextlib
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from its_jax.errors import UserError
from its_jax.generate.record import sample_record
from its_jax.media import images, sounds, videos
from its_jax.pipeline import decoding
from its_jax.pipeline.methods import resume, subclasses
from its_jax.pipeline.sampler import Sampler, timed
from its_jax.runtime.cache import keep_programs
from its_jax.scoring import registry
from its_jax.scoring.item import Item
from its_jax.settings.ids import sample_id
from its_jax.settings.records import RECORD, VIDEO, unfinished
from its_jax.settings.schema import TERMS, RunOptions, SampleSettings
from its_jax.settings.steps import image_terms, total_steps
from its_jax.storage.files import json_bytes
from its_jax.storage.writers import FolderWriter

_WRITERS = 2


def make(requested: Sequence[SampleSettings], workdir: Path, *, options: RunOptions, position: int = 0) -> bool:
    """Generates and writes samples that differ only in seed, prompts and numbers; returns whether any was missing.

    Args:
      position: of the first sample of each batch in it; the others follow.

    Raises:
      UserError: bad settings; a folder or disk that cannot be written; samples that are not finite (named; all
        others are written).
    """
    _check_writable(workdir)
    pending = unfinished(requested, workdir, _files(requested[0], options.video))
    if len(pending) < len(requested):
        finished = len(requested) - len(pending)
        logging.info("%d of %d samples are in %s already", finished, len(requested), workdir)
    if not pending:
        return False
    keep_programs()
    sampler = subclasses.sampler_for(
        pending[0],
        workdir,
        Sampler,
        pending=len(pending),
        batch_size=options.batch_size,
        devices_per_sample=options.devices_per_sample,
    )
    sampler.warn(pending)
    device = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    logging.info("%d samples, %d at once, on %s", len(pending), sampler.batch_size, device)
    store, done = FolderWriter(workdir), 0
    store.remove_leftovers(map(sample_id, pending))
    with pipeline(store, pending, video=options.video) as line:
        while done < len(pending):
            done += line.make(sampler, pending[done : done + sampler.batch_size - position], position)
    tell(workdir, line)
    return True


def tell(workdir, line, faults=()):
    """Says what a pipeline has made. UserError: what it could not, and other faults."""
    logging.info("%d samples in %s", len(line.written), workdir)
    if faults := [*faults, *line.faults.values()]:
        raise UserError(f"not written: {'; '.join(faults)}")


def _files(settings, video):
    """Returns the names of a sample's files."""
    pictures = (f"{term}.png" for term in image_terms(settings))
    return *pictures, "spectrogram.png", "audio.wav", *[VIDEO] * video, RECORD


@contextlib.contextmanager
def pipeline(store, pending: Sequence[SampleSettings], *, video, scorers=()):
    """Gives a `Pipeline` that shows how far these samples are; at the end all is written."""
    bar = tqdm(total=sum(map(total_steps, pending)), unit="step", desc="denoise")
    with bar, concurrent.futures.ThreadPoolExecutor(_WRITERS) as writers:
        line = Pipeline(store, bar, writers, video, scorers)
        yield line
        with timed("write", {}):
            line.finish()
        store.close()


class Pipeline:
    """Batches one after another, while threads write the one before: no more than two are in memory.

    Attributes:
      written: ids of samples. faults: id -> why it could not be written.
    """

    def __init__(self, store, bar, writers, video, scorers):
        self._store, self._bar, self._writers, self._video, self._scorers = store, bar, writers, video, scorers
        self._writing, self.written, self.faults = [], [], {}
        self._progress = set()

    def make(self, sampler, batch, position=0, wanted=None):
        """Generates as many of the first samples as the memory suffices for, and has those written that are wanted (a
        bool for each; None: all). Returns the number that were made."""
        wanted = [True] * len(batch) if wanted is None else wanted
        samples = self._samples(sampler, batch, position, wanted)
        self.finish()
        self._progress = {sample.progress for sample in samples} - {None}
        for settings, sample, is_wanted in zip(batch, samples, wanted, strict=False):
            if is_wanted and sample.fault:
                self.faults[sample_id(settings)] = f"{sample_id(settings)}: {sample.fault}"
            elif is_wanted:
                writing = self._writers.submit(self._write, settings, sample, sampler)
                self._writing.append((sample_id(settings), writing))
        return len(samples)

    def finish(self):
        """Waits for the writers; if one fails, what else was not written is told with it."""
        try:
            while self._writing:
                name, writing = self._writing.pop(0)
                writing.result()
                self.written.append(name)
            self._store.flush()
            while self._progress:
                resume.remove_state(self._progress.pop())
        except UserError as error:
            raise type(error)("; ".join([str(error), *self.faults.values()])) from error

    def _write(self, settings, sample, sampler):
        write(settings, sample, sampler, self._store, video=self._video, scorers=self._scorers)

    def _samples(self, sampler, batch, position, wanted):
        start = self._bar.n
        while True:
            part = batch[: sampler.batch_size - position]
            share = sum(wanted[: len(part)]) / len(part)
            try:
                return sampler(
                    part, lambda steps, share=share: self._bar.update(round(steps * share)), position=position
                )
            except jax.errors.JaxRuntimeError as error:
                sampler.check_can_shrink(error)
            sampler.shrink()  # out of the except clause, for the error holds on to the arrays of what failed
            self._bar.n = start


def write(settings, sample, sampler, store, *, video, scorers=()):
    """Scores one sample and adds it to a store, the record last."""
    store.add(sample_id(settings), _content(settings, sample, sampler, type(store).audio_file, video, scorers))


def _content(settings, sample, sampler, sound, video, scorers):
    """Yields the files of a sample, as (name, bytes)."""
    start = time.perf_counter()
    pictures, spectrogram, waveform = sample.pictures, sample.spectrogram, sample.waveform
    if settings.crop_image:
        pictures = {term: decoding.crop(picture, waveform)[0] for term, picture in pictures.items()}
        spectrogram, waveform = decoding.crop(spectrogram, waveform)
    rate = sampler.mel.sampling_rate
    record = sample_record(settings, sample, sampler, video, scorers)
    record |= registry.score_item(scorers, Item(settings, pictures, spectrogram, waveform, rate))
    for term, picture in pictures.items():
        yield f"{term}.png", images.png(picture, record)
    yield "spectrogram.png", images.png(spectrogram, record)
    encode = sounds.flac if sound.endswith(".flac") else sounds.wav
    yield sound, encode(waveform, rate, record)
    if video:
        prompts = (settings.terms[term].prompt for term in TERMS)
        yield VIDEO, videos.video(spectrogram, waveform, rate, *prompts, settings=record)
    seconds = {**sample.seconds, "write": time.perf_counter() - start}
    yield RECORD, json_bytes(record | {"seconds": seconds})


def _check_writable(workdir):
    try:
        # Nothing is made yet: a model that is refused later leaves no empty folder.
        with tempfile.TemporaryFile(dir=next(path for path in (workdir, *workdir.parents) if path.exists())):
            pass
    except OSError as error:
        raise UserError(f"workdir {workdir}: cannot be written ({error.strerror}); choose another folder") from error
