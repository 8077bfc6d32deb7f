"""Jobs -> folders of files: samples batch by batch, each written while the next ones are made."""

import concurrent.futures
import contextlib
import importlib.metadata
import logging
import tempfile
import time

import jax
from tqdm import tqdm

from convert.cache import cache_folder
from its_jax import fields, jobs, media, stages
from its_jax.errors import UserError
from its_jax.sampler import Sampler, timed

_WRITERS = 2
_VIDEO = "video.mp4"
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def make_again(file, workdir):
    """Makes the sample again whose settings `file` holds, at its place in a batch of its size: to the same bits."""
    record = media.read_settings(file)
    job, how = jobs.from_record(record)
    if any(record["run"].get(key, here) != here for key, here in _machine().items()):
        # The bits are beyond reach, and that batch may be beyond this memory.
        how |= {"batch_size": 0, "position": 0, "devices_per_sample": 1}
    make([job], workdir, **how)
    _tell_differences(record, fields.read_json(workdir / jobs.job_id(job) / jobs.RECORD))


def make(todo, workdir, *, batch_size, video, position=0, devices_per_sample=1):
    """Makes and writes jobs that agree in all but seed, prompts and numbers.

    Args:
      position: of the first job of each batch in it; the others follow.

    Raises:
      UserError: bad settings; a folder or disk that cannot be written; samples that are not finite (named; all
        others are written).
    """
    _check_writable(workdir)
    todo, asked = jobs.unfinished(todo, workdir, _files(todo[0], video)), len(todo)
    if asked > len(todo):
        logging.info("%d of %d samples are in %s already", asked - len(todo), asked, workdir)
    if not todo:
        return
    keep_programs()
    how = {"batch_size": batch_size, "devices_per_sample": devices_per_sample}
    sampler = Sampler(todo[0], pending=len(todo), **how)
    sampler.warn(todo)
    device = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    logging.info("%d samples, %d at once, on %s", len(todo), sampler.batch_size, device)
    faults = _make(todo, sampler, position, lambda job, sample: write(job, sample, sampler, workdir, video))
    logging.info("%d samples in %s", len(todo) - len(faults), workdir)
    if faults:
        raise UserError(f"not written: {'; '.join(faults)}")


def keep_programs():
    """Compiled programs are kept in the cache folder, unless the user has JAX keep them elsewhere, so that a second run
    of the same shapes need not compile."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # a run has two dozen small ones


def _files(job, video):
    pictures = (f"{term}.png" for term in jobs.pictures(job))
    return *pictures, "spectrogram.png", "audio.wav", *[_VIDEO] * video, jobs.RECORD


def _make(todo, sampler, position, write):
    """Samples batch by batch, while threads write the batch before; returns the faults of what was not written."""
    faults, writing, done = [], [], 0
    steps = todo[0]["num_steps"] - jobs.first_step(todo[0])
    bar = tqdm(total=len(todo) * steps, unit="step", desc="denoise")
    with bar, concurrent.futures.ThreadPoolExecutor(_WRITERS) as writers:
        while done < len(todo):
            samples = _next_batch(sampler, todo[done:], position, bar)
            _finish(writing, faults)  # so that no more than two batches are in memory
            for job, sample in zip(todo[done:], samples, strict=False):
                if sample.fault:
                    faults.append(f"{jobs.job_id(job)}: {sample.fault}")
                else:
                    writing.append(writers.submit(write, job, sample))
            done += len(samples)
        with timed("write", {}):
            _finish(writing, faults)
    return faults


def _next_batch(sampler, todo, position, bar):
    """Samples of as many of the first jobs as a batch holds, which is made smaller if the memory does not suffice."""
    start = bar.n
    while True:
        try:
            return sampler(todo[: sampler.batch_size - position], bar.update, position=position)
        except jax.errors.JaxRuntimeError as error:
            sampler.check_can_shrink(error)
        sampler.shrink()  # out of the except clause, for the error holds on to the arrays of what failed
        bar.n = start


def _finish(writing, faults):
    """Waits for the writers; if one fails, what else was not written is told with it."""
    try:
        while writing:
            writing.pop(0).result()
    except UserError as error:
        raise UserError("; ".join([str(error), *faults])) from error


def write(job, sample, sampler, workdir, video):
    """Writes one sample's files, each whole or not at all, the record last."""
    start = time.perf_counter()
    folder = workdir / jobs.job_id(job)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from error
    (folder / jobs.RECORD).unlink(missing_ok=True)  # of a folder that lacks another file: it is not done any more
    try:
        _write_files(folder, job, sample, sampler, video, start)
    except UserError:
        with contextlib.suppress(OSError):  # it holds files
            folder.rmdir()
        raise


def _write_files(folder, job, sample, sampler, video, start):
    record = _record(job, sample, sampler, video)
    pictures, spectrogram, waveform = sample.pictures, sample.spectrogram, sample.waveform
    if job["crop_image"]:
        pictures = {term: stages.cropped(picture, waveform)[0] for term, picture in pictures.items()}
        spectrogram, waveform = stages.cropped(spectrogram, waveform)
    rate = sampler.mel.sampling_rate
    for term, picture in pictures.items():
        media.write_png(folder / f"{term}.png", picture, record)
    media.write_png(folder / "spectrogram.png", spectrogram, record)
    media.write_wav(folder / "audio.wav", waveform, rate, record)
    if video:
        prompts = (job[term]["prompt"] for term in jobs.TERMS)
        media.write_video(folder / _VIDEO, spectrogram, waveform, rate, *prompts)
    seconds = {**sample.seconds, "write": time.perf_counter() - start}
    media.write_json(folder / jobs.RECORD, record | {"seconds": seconds})


def _record(job, sample, sampler, video):
    """All that it takes to make the sample again."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES} | {"its_jax": _own_version()}
    models = {term: model.identity for term, model in sampler.models.items()}
    run = {"batch_size": sampler.batch_size, "position": sample.position, "video": video}
    run["devices_per_sample"] = sampler.devices_per_sample
    return job | {"id": jobs.job_id(job), "run": run | _machine(), "models": models, "versions": versions}


def _machine():
    return {"platform": jax.default_backend(), "devices": jax.local_device_count()}


def _own_version():
    try:
        return importlib.metadata.version("its_jax")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _tell_differences(then, now):
    """Warns of what else than the settings decides the bits of a sample, where it is not as it was."""
    for group in ("models", "versions", "run"):
        before, here = then.get(group, {}), now.get(group, {})
        for name in sorted(before.keys() & here.keys()):
            if before[name] != here[name]:
                what = f"{group}.{name} was {before[name]} and is {here[name]}"
                logging.warning("%s: the sample may differ from the one that was made before", what)


def _check_writable(workdir):
    try:
        # Nothing is made yet: a model that is refused later leaves no empty folder.
        with tempfile.TemporaryFile(dir=next(path for path in (workdir, *workdir.parents) if path.exists())):
            pass
    except OSError as error:
        raise UserError(f"workdir {workdir}: cannot be written ({error.strerror}); choose another folder") from error
