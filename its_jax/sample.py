"""Two prompts in, a picture that sounds out: `python -m its_jax.sample --config=configs/default.py --workdir=out`.

Writes WORKDIR/<id>/ with image.png, spectrogram.png, audio.wav, video.mp4 and, last, sample.json. A second run with the
same settings makes only what is missing. `--from=FILE` (one of those files) makes that sample again.
"""

import concurrent.futures
import importlib.metadata
import logging
import os
import tempfile
import time
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from its_jax import cli, jobs, media, stages
from its_jax.errors import UserError
from its_jax.sampler import Sampler

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Settings: a file of configs/, or your own.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for the samples; made if it does not exist.", required=True
)
_FROM = flags.DEFINE_string("from", None, "A PNG, WAV or sample.json of ours: makes that sample again.")

_WRITERS = 2
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def main():
    if (_CONFIG.value is None) == (_FROM.value is None):
        raise UserError("give either --config=FILE.py or --from=FILE.png|FILE.wav|sample.json")
    if _FROM.value:
        run_again(Path(_FROM.value), Path(_WORKDIR.value))
    else:
        run(_CONFIG.value, Path(_WORKDIR.value))


def run(config, workdir):
    """Makes the samples of a config (see configs/default.py) that are not in `workdir` yet."""
    settings = config.to_dict()
    make(
        jobs.expand(settings, settings["num_samples"]),
        workdir,
        batch_size=settings["batch_size"],
        video=settings["video"],
    )


def run_again(file, workdir):
    """Makes the sample again whose settings `file` holds, in a batch of the same size, hence with the same bits."""
    record = media.read_settings(file)
    make([jobs.from_record(record)], workdir, batch_size=record["run"]["batch_size"], video=True)


def make(todo, workdir, *, batch_size, video):
    """Makes and writes jobs that agree in all but seed, prompts and numbers.

    Raises:
      UserError: bad settings; a folder or disk that cannot be written; samples that were not finite (named; all
        others are written).
    """
    if batch_size < 0:
        raise UserError(f"batch_size={batch_size}: must be 0 (chosen from the memory) or more")
    _check_writable(workdir)
    todo, asked = jobs.unfinished(todo, workdir), len(todo)
    if asked > len(todo):
        logging.info("%d of %d samples are in %s already", asked - len(todo), asked, workdir)
    if not todo:
        return
    _keep_compiled_programs()
    sampler = Sampler(todo[0], pending=len(todo), batch_size=batch_size)
    logging.info(
        "%d samples, %d at once, on %d x %s",
        len(todo),
        sampler.batch_size,
        jax.local_device_count(),
        jax.local_devices()[0].device_kind,
    )
    failures, writing = [], []
    steps = len(todo) * todo[0]["num_steps"]
    with (
        concurrent.futures.ThreadPoolExecutor(_WRITERS) as writers,
        tqdm(total=steps, unit="step", desc="denoise") as bar,
    ):
        for start in range(0, len(todo), sampler.batch_size):
            batch = todo[start : start + sampler.batch_size]
            samples = sampler(batch, lambda done: bar.update(done * len(batch)))
            # The device has worked on this batch while the last was written: wait here, and memory stays bounded.
            _finish(writing)
            for job, sample in zip(batch, samples, strict=True):
                if sample.failed_at >= 0:
                    failures.append(f"{jobs.job_id(job)} from step {sample.failed_at} on")
                else:
                    writing.append(writers.submit(write, job, sample, sampler, workdir, video))
        start = time.perf_counter()
        _finish(writing)
    logging.info("%-8s %.2f s after the last batch", "write", time.perf_counter() - start)
    logging.info("%d samples in %s", len(todo) - len(failures), workdir)
    if failures:
        raise UserError(f"latents that are not finite, not written: {'; '.join(failures)}")


def write(job, sample, sampler, workdir, video):
    """Writes one sample's files, each whole or not at all, the record last."""
    folder = workdir / jobs.job_id(job)
    folder.mkdir(exist_ok=True)
    record = _record(job, sample, sampler)
    picture, spectrogram, waveform = sample.picture, sample.spectrogram, sample.waveform
    if job["crop_image"]:
        picture, _ = stages.cropped(picture, waveform)
        spectrogram, waveform = stages.cropped(spectrogram, waveform)
    rate = sampler.mel.sampling_rate
    media.write_png(folder / "image.png", picture, record)
    media.write_png(folder / "spectrogram.png", spectrogram, record)
    media.write_wav(folder / "audio.wav", waveform, rate, record)
    if video:
        prompts = (job[term]["prompt"] for term in jobs.TERMS)
        media.write_video(folder / "video.mp4", spectrogram, waveform, rate, *prompts)
    media.write_json(folder / jobs.RECORD, record | {"seconds": sampler.seconds})


def _record(job, sample, sampler):
    """All that it takes to make the sample again."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES} | {"its_jax": _own_version()}
    identities = {term: getattr(sampler, term).identity for term in jobs.TERMS}
    run = {"batch_size": sampler.batch_size, "position": sample.position, "devices": jax.local_device_count()}
    run |= {"platform": jax.default_backend()}
    return job | {"id": jobs.job_id(job), "run": run, "models": identities, "versions": versions}


def _own_version():
    try:
        return importlib.metadata.version("its_jax")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _finish(writing):
    while writing:
        writing.pop(0).result()


def _check_writable(workdir):
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(
            f"workdir {workdir}: cannot be written ({error.strerror}); choose another folder"
        ) from error


def _keep_compiled_programs():
    """A second run of the same shapes need not compile; the folder holds programs, so it must be the user's own."""
    home = Path(os.environ.get("ITS_JAX_CACHE") or Path.home() / ".cache" / "its_jax")
    jax.config.update("jax_compilation_cache_dir", str(home / "programs"))


if __name__ == "__main__":
    cli.start(main)
