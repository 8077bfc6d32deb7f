"""How long the sampler's stages take, how much arithmetic that is, and how much memory they had."""

import datetime
import functools
import importlib.metadata
import statistics

import jax
import jax.numpy as jnp

from its_jax.benchmark.flops import count_flops
from its_jax.errors import UserError
from its_jax.models.state_dict import abstract_arrays
from its_jax.pipeline import decoding, prompts
from its_jax.pipeline.methods import subclasses
from its_jax.pipeline.sampler import OUT_OF_MEMORY, Sampler
from its_jax.runtime import hardware
from its_jax.settings.parse import expand, read_settings
from its_jax.settings.schema import term_names
from its_jax.settings.steps import is_active, term_prompts

STAGES = ("encode", "denoise", "decode", "vocode")
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def about(settings):
    """Returns what was measured, and on what; `batches` is still empty."""
    return {
        "machine": hardware.describe(),
        "date": datetime.date.today().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "settings": settings.to_dict(),
        "batches": [],
    }


def sweep(settings, batches, repeats=3):
    """Figures of one size of batch after the other, or of the config's own if there are none; see `of_batch`.

    Where memory ends, so does it: the last figures are then the `batch_size` and a `fault`.

    Args:
      batches: rising, for the peak of memory is that of the process so far.
    """
    for b in batches or [settings["batch_size"]]:
        try:
            yield measure_batch(settings | {"batch_size": b}, repeats)
        except (jax.errors.JaxRuntimeError, UserError) as error:
            # Sampler has made a user's error of what the compiler refuses.
            if OUT_OF_MEMORY not in f"{error} {error.__cause__}":
                raise
            yield {"batch_size": b, "fault": "more than the memory holds"}
            return


def measure_batch(settings, repeats=3):
    """Figures of one size of batch as plain values; those of a stage are medians over `repeats` batches.

    Args:
      settings: a config as a dictionary; its batch size, or what 0 chooses for its number of samples.
    """
    requested, options = read_settings(settings)
    one = requested[0]
    if one.method in subclasses.SAMPLERS:
        raise UserError(f"method={one.method!r}: only methods that denoise one latent are timed; take another")
    size, devices = options.batch_size, options.devices_per_sample
    sampler = Sampler(one, pending=size or len(requested), batch_size=size, devices_per_sample=devices)
    b = sampler.batch_size
    sampler(_batch(settings, b, 0))  # not timed: it does what is done only once
    runs = [sampler(_batch(settings, b, i + 1))[0].seconds for i in range(repeats)]
    peak, work = hardware.peak_memory(), stage_flops(sampler, one)
    spent = {name: round(sampler.seconds[name], 2) for name in ("load", "compile")}
    temporaries = {name: program.memory_analysis().temp_size_in_bytes for name, program in sampler.programs.items()}
    del sampler  # so that the matrices take no more memory than the models did
    limit = hardware.matrix_rate(one.dtype)
    seconds = {stage: [run[stage] for run in runs] for stage in STAGES}
    seconds["all"] = [sum(of_run) for of_run in zip(*seconds.values(), strict=True)]
    work["all"] = sum(work.values())
    return {
        "batch_size": b,
        "devices": jax.local_device_count(),
        "devices_per_sample": devices,
        "load_seconds": spent["load"],
        "compile_seconds": spent["compile"],
        "matrix_product_gflops": round(limit / 1e9, 1),
        "peak_memory_mb": round(peak / 1e6),
        "temporaries_mb": {name: round(size / 1e6, 3) for name, size in temporaries.items()},
        "stages": {stage: _stage(seconds[stage], work[stage], b, limit) for stage in seconds},
    }


def _batch(settings, b, number):
    """Returns the settings of a batch whose prompts no other sample has, so that all of them are encoded."""

    def numbered(i):
        new = {key: f" {number} {i}" for key in ("prompt", "negative_prompt")}
        terms = {
            term: settings[term] | {key: settings[term][key] + new[key] for key in new} for term in term_names(settings)
        }
        return expand({**settings, **terms}, 1)[0]

    return [numbered(i) for i in range(b)]


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


def stage_flops(sampler, settings):
    """Stage -> floating-point operations of one sample in products, see `its_jax.benchmark.flops`, as the plain layers have them.

    Prompts are counted as if no other sample had them, and each term at the steps at which it takes part.
    """
    h, w, c = sampler.latent_shape(settings)
    latents, decoders, work = _shape(1, h, w, c), tuple(map(_plain, sampler.decoders)), dict.fromkeys(STAGES, 0)
    *_, chosen = sampler.tables([settings])
    for (name, model), of_term in zip(sampler.models.items(), chosen, strict=True):
        texts, sight = len(term_prompts(settings, name)), sampler.sight(settings, name)
        ids = _shape(texts, model.tokenizer.model_max_length, dtype=jnp.int32)
        text_encoder, unet = _plain(model.text_encoder), _plain(model.unet)
        if is_active(settings, name):
            work["encode"] += count_flops(prompts.prepare_texts, text_encoder, unet, ids)
        features = jax.eval_shape(prompts.prepare_texts, text_encoder, unet, ids)
        windows = sight["windows"]
        columns, count = (windows.size, len(windows.starts)) if windows else (w, 1)
        for place, way in enumerate(sight["ways"], start=1):
            evaluations = count * int((of_term == place).sum())
            work["denoise"] += evaluations * evaluation_flops(unet, way, _shape(texts, h, columns, c), features)
    decode = functools.partial(
        decoding.decode, frames=sampler.frames(settings), cutoff=settings.cutoff_latent, wrap=settings.wrap
    )
    work["decode"] = count_flops(decode, latents, decoders)
    spectrogram, _ = jax.eval_shape(decode, latents, decoders)
    vocode = functools.partial(decoding.vocode, config=sampler.mel, method=settings.vocoder, wrap=settings.wrap)
    work["vocode"] = count_flops(vocode, _plain(sampler.audio.vocoder), spectrogram)
    return work


def evaluation_flops(unet, way, x, texts):
    """Floating-point operations of one evaluation of a UNet in a `denoise.Way`, with what it has prepared beforehand.

    Args:
      unet, x, texts: shapes; `x` and `texts` of negative and positive prompt, or of the positive one alone.
    """
    if not way.guided:
        x, texts = jax.tree.map(lambda a: _shape(1, *a.shape[1:], dtype=a.dtype), (x, texts))
    time = jax.eval_shape(lambda unet, t: unet.project_time(t), unet, _shape(1, dtype=jnp.int32))
    if not way.cached:
        return count_flops(lambda unet, *inputs: unet.predict(*inputs), unet, x, time, texts)
    _, inner = jax.eval_shape(lambda unet, *inputs: unet.predict_keeping(*inputs), unet, x, time, texts)
    return count_flops(lambda unet, *inputs: unet.predict_reusing(*inputs), unet, x, time, texts, inner)


def _plain(module):
    """The shapes of a module, without the forms that it has on a CPU."""
    return abstract_arrays(type(module), module.config)


def _shape(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)
