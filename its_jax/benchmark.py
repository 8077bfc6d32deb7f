"""Times the stages that `its_jax.sample` runs: `python -m its_jax.benchmark --config=configs/default.py`.

The programs are the sampler's own, at its batch size (`--config.batch_size` sets it). Compile time is without the cache
of compiled programs, which this command does not use. `--out=FILE.json` writes the figures that are printed.
"""

import functools
import importlib.metadata
import resource
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from its_jax import cli, jobs, media, stages
from its_jax.errors import UserError
from its_jax.flops import flops
from its_jax.sampler import Sampler, prompts_of
from its_jax.tiny.export import machine
from its_jax.weights import abstract

_CONFIG = config_flags.DEFINE_config_file("config", None, "Settings, as of its_jax.sample.", lock_config=True)
_REPEATS = flags.DEFINE_integer("repeats", 3, "How many batches are timed, after one that is not.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "A JSON file for the figures.")

STAGES = ("encode", "denoise", "decode", "vocode")
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")
# Rows of the matrices whose product shows what the machine gives: on an accelerator, and on a CPU.
PRODUCT = 8192, 2048


def main():
    if _CONFIG.value is None:
        raise UserError("give --config=FILE.py")
    jax.config.update("jax_enable_compilation_cache", False)
    figures = benchmark(_CONFIG.value.to_dict(), _REPEATS.value)
    for line in _lines(figures):
        print(line)
    if _OUT.value:
        Path(_OUT.value).absolute().parent.mkdir(parents=True, exist_ok=True)
        media.write_json(Path(_OUT.value), figures)


def benchmark(settings, repeats=3):
    """Figures of one shape of batch as plain values; those of a stage are medians over `repeats` batches.

    Args:
      settings: a config as a dictionary; its batch size, or what 0 chooses for its number of samples.
    """
    todo, how = jobs.read(settings)
    size, devices = how["batch_size"], how["devices_per_sample"]
    sampler = Sampler(todo[0], pending=size or len(todo), batch_size=size, devices_per_sample=devices)
    job, b = todo[0], sampler.batch_size
    sampler(_batch(settings, b, 0))  # not timed: it does what is done only once
    runs = [sampler(_batch(settings, b, i + 1))[0].seconds for i in range(repeats)]
    seconds = {stage: [run[stage] for run in runs] for stage in STAGES}
    work = arithmetic(sampler, job)
    seconds["all"] = [sum(of_run) for of_run in zip(*seconds.values(), strict=True)]
    work["all"] = sum(work.values())
    limit = matrix_rate(job["dtype"])
    return {
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "settings": job,
        "batch_size": b,
        "load_seconds": round(sampler.seconds["load"], 2),
        "compile_seconds": round(sampler.seconds["compile"], 2),
        "matrix_product_gflops": round(limit / 1e9, 1),
        "peak_memory_mb": round(peak_memory() / 1e6),
        "temporaries_mb": {
            name: round(program.memory_analysis().temp_size_in_bytes / 1e6)
            for name, program in sampler.programs.items()
        },
        "stages": {stage: _stage(seconds[stage], work[stage], b, limit) for stage in seconds},
    }


def _batch(settings, b, number):
    """Jobs whose prompts no other sample has, so that all of them are encoded."""

    def job(i):
        new = {key: f" {number} {i}" for key in ("prompt", "negative_prompt")}
        terms = {
            term: settings[term] | {key: settings[term][key] + new[key] for key in new} for term in jobs.terms(settings)
        }
        return jobs.expand({**settings, **terms}, 1)[0]

    return [job(i) for i in range(b)]


def _stage(seconds, work, b, limit):
    median = statistics.median(seconds)
    rate = work * b / median
    return {
        "batch_seconds": [round(value, 4) for value in seconds],
        "sample_seconds": round(median / b, 4),
        "samples_per_second": round(b / median, 4),
        "sample_gflop": round(work / 1e9, 3),
        "gflops": round(rate / 1e9, 2),
        "of_matrix_product": round(rate / limit, 4),
    }


def arithmetic(sampler, job):
    """Stage -> floating-point operations for one sample in products, see `its_jax.flops`, as the plain method has them.

    Prompts are counted as if no other sample had them, and each term at the steps at which it takes part.
    """
    h, w, c = sampler.latent_shape(job)
    latents, spectrogram = _shape(1, h, w, c), _shape(1, job["height"], job["width"])
    work = dict.fromkeys(STAGES, 0)
    for name, model in sampler.models.items():
        texts, windows = len(prompts_of(job, name)), sampler.sight(job, name)["windows"]
        ids = _shape(texts, model.tokenizer.model_max_length, dtype=jnp.int32)
        text_encoder, unet = _plain(model.text_encoder), _plain(model.unet)
        work["encode"] += flops(stages.prepare_texts, text_encoder, unet, ids)
        columns, count = (windows.size, len(windows.starts)) if windows else (w, 1)
        features = jax.eval_shape(stages.prepare_texts, text_encoder, unet, ids)
        time = jax.eval_shape(lambda unet, t: unet.project_time(t), unet, _shape(1, dtype=jnp.int32))
        step = flops(lambda unet, *inputs: unet.predict(*inputs), unet, _shape(texts, h, columns, c), time, features)
        work["denoise"] += step * count * len(jobs.steps(job, name))
    decode = functools.partial(stages.decode, frames=sampler.frames(job), cutoff=job["cutoff_latent"], wrap=job["wrap"])
    work["decode"] = flops(decode, latents, tuple(map(_plain, sampler.decoders)))
    vocode = functools.partial(stages.vocode, config=sampler.mel, method=job["vocoder"], wrap=job["wrap"])
    work["vocode"] = flops(vocode, _plain(sampler.audio.vocoder), spectrogram)
    return work


def _plain(module):
    """The shapes of a module, without the forms that it has on a CPU."""
    return abstract(type(module), module.config)


def _shape(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def matrix_rate(dtype, repeats=5):
    """Floating-point operations per second of a square matrix product on all devices: what there is to be had."""
    devices, on_cpu = jax.local_devices(), jax.default_backend() == "cpu"
    n = PRODUCT[on_cpu]
    a = [jax.device_put(jnp.full((n, n), 1 / n, dtype), device) for device in devices]
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32).astype(dtype))
    jax.block_until_ready([product(x) for x in a])
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready([product(x) for x in a])
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 * len(devices) / min(seconds)


def peak_memory():
    """Bytes: the most that the first device held, or on a CPU this process."""
    memory = jax.local_devices()[0].memory_stats()
    return memory["peak_bytes_in_use"] if memory else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _lines(figures):
    yield f"{figures['machine']}, {figures['settings']['dtype']}, batches of {figures['batch_size']}"
    load, compile_, peak = (figures[key] for key in ("load_seconds", "compile_seconds", "peak_memory_mb"))
    yield f"load {load} s, compile {compile_} s, peak memory {peak} MB"
    yield f"a matrix product runs at {figures['matrix_product_gflops']} GFLOP/s"
    yield f"{'':8} {'s a sample':>12} {'samples/s':>10} {'GFLOP':>10} {'GFLOP/s':>10} {'of product':>10}"
    for stage, of in figures["stages"].items():
        numbers = (of[key] for key in ("sample_seconds", "samples_per_second", "sample_gflop", "gflops"))
        yield (
            f"{stage:8} " + "{:12.4g} {:10.4g} {:10.1f} {:10.1f}".format(*numbers) + f" {of['of_matrix_product']:10.0%}"
        )


if __name__ == "__main__":
    cli.start(main)
