"""Measures the stages of a pipeline: seconds, arithmetic and memory."""

import datetime
import functools
import importlib.metadata
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from its_jax.benchmark.flops import count_flops
from its_jax.diffusion.feature_cache import Mode
from its_jax.errors import UserError
from its_jax.models.state_dict import abstract_arrays
from its_jax.pipeline import decoding, prompts
from its_jax.pipeline.batching import OUT_OF_MEMORY
from its_jax.pipeline.components import Components
from its_jax.pipeline.methods.base import method_class
from its_jax.pipeline.methods.fused import Fused
from its_jax.pipeline.pipeline import Pipeline
from its_jax.pipeline.program import Program
from its_jax.pipeline.step_tables import step_tables, term_options
from its_jax.runtime import hardware
from its_jax.settings.parse import expand, read_settings
from its_jax.settings.schema import RunOptions, SampleSettings, term_names
from its_jax.settings.steps import is_active, term_prompts

STAGES = ("encode", "denoise", "decode", "vocode")
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")
# How a program is compiled, see `compile_program`.
Compile = Callable[[Sequence[SampleSettings], RunOptions], Program]


def about(settings: SampleSettings) -> dict[str, Any]:
    """Returns what is measured, and on which machine; `batches` is still empty."""
    return {
        "machine": hardware.describe(),
        "date": datetime.date.today().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "settings": settings.to_dict(),
        "batches": [],
    }


def compile_program(requested: Sequence[SampleSettings], options: RunOptions) -> Program:
    """Loads the models and compiles the stages, for the requested batch size or for one that fits in memory."""
    size = options.batch_size
    return Pipeline().compile(
        requested[0],
        pending=size or len(requested),
        batch_size=size,
        devices_per_sample=options.devices_per_sample,
    )


def measure_batch(
    settings: Mapping[str, Any], repeats: int = 3, compile_program: Compile = compile_program
) -> dict[str, Any]:
    """Returns the figures of one batch size as plain values; those of a stage are medians over `repeats` batches.

    Args:
      settings: a config as a dictionary. Its batch size is measured, or the one that 0 chooses.
    """
    requested, options = read_settings(settings)
    one = requested[0]
    if method_class(one.method) is not Fused:
        raise UserError(f"method={one.method!r}: only methods that denoise one latent can be timed; use another")
    program = compile_program(requested, options)
    b = program.batch_size
    program(_batch(settings, b, 0))  # not timed, because it does what is done only once
    runs = [program(_batch(settings, b, i + 1))[0].seconds for i in range(repeats)]
    peak, work = hardware.peak_memory(), stage_flops(program.components, one)
    spent = {name: round(program.seconds[name], 2) for name in ("load", "compile")}
    memory: dict[str, Any] = {name: stage.memory_analysis() for name, stage in program.programs.items()}
    del program  # so that the matrices take no more memory than the models did
    limit = hardware.matrix_rate(one.dtype)
    seconds = {stage: [run[stage] for run in runs] for stage in STAGES}
    seconds["all"] = [sum(stages) for stages in zip(*seconds.values(), strict=True)]
    work["all"] = sum(work.values())
    return {
        "batch_size": b,
        "devices": jax.local_device_count(),
        "devices_per_sample": options.devices_per_sample,
        "load_seconds": spent["load"],
        "compile_seconds": spent["compile"],
        "matrix_product_gflops": round(limit / 1e9, 1),
        "peak_memory_mb": round(peak / 1e6),
        "temporaries_mb": {name: round(found.temp_size_in_bytes / 1e6, 3) for name, found in memory.items()},
        "stages": {stage: _summarize(seconds[stage], work[stage], b, limit) for stage in seconds},
    }


def sweep(
    settings: Mapping[str, Any],
    batches: Sequence[int],
    repeats: int = 3,
    measure: Callable[[Mapping[str, Any], int], dict[str, Any]] = measure_batch,
) -> Iterator[dict[str, Any]]:
    """Yields the figures of one batch size after another, or of the config's own if there are none.

    It ends where a batch does not fit in memory: the last figures are then its `batch_size` and a `fault`.

    Args:
      batches: rising batch sizes, because the peak of memory is that of the process so far.
    """
    for b in batches or [settings["batch_size"]]:
        try:
            yield measure({**settings, "batch_size": b}, repeats)
        except (jax.errors.JaxRuntimeError, UserError) as error:
            # What the compiler refuses is the cause of a UserError.
            if OUT_OF_MEMORY not in f"{error} {error.__cause__}":
                raise
            yield {"batch_size": b, "fault": "more than the memory holds"}
            return


def _batch(settings: Mapping[str, Any], b: int, number: int) -> list[SampleSettings]:
    """Returns the settings of a batch whose prompts no other sample has, so that all of them are encoded."""

    def numbered(i):
        new = {key: f" {number} {i}" for key in ("prompt", "negative_prompt")}
        terms = {
            term: settings[term] | {key: settings[term][key] + new[key] for key in new} for term in term_names(settings)
        }
        return expand({**settings, **terms}, 1)[0]

    return [numbered(i) for i in range(b)]


def _summarize(seconds: Sequence[float], work: int, b: int, limit: float) -> dict[str, Any]:
    """Returns seconds and rates of a stage, and its share of the rate of a matrix product."""
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


def stage_flops(components: Components, settings: SampleSettings) -> dict[str, int]:
    """Counts the floating-point operations of each stage for one sample, in products and with plain layers.

    Prompts count as if no other sample had them, and each term counts at the steps at which it is active. See
    `its_jax.benchmark.flops`.
    """
    h, w, c = components.latent_shape(settings)
    latents, vaes, work = _shape(1, h, w, c), tuple(map(_plain, components.vaes)), dict.fromkeys(STAGES, 0)
    modes = step_tables(components.schedule, [settings]).modes
    for (name, model), term_modes in zip(components.models.items(), modes, strict=True):
        texts, options = len(term_prompts(settings, name)), term_options(settings, name, components.vae.config.factor)
        ids = _shape(texts, model.tokenizer.model_max_length, dtype=jnp.int32)
        text_encoder, unet = _plain(model.text_encoder), _plain(model.unet)
        if is_active(settings, name):
            work["encode"] += count_flops(prompts.prepare_texts, text_encoder, unet, ids)
        features = jax.eval_shape(prompts.prepare_texts, text_encoder, unet, ids)
        windows = options["windows"]
        columns, count = (windows.size, len(windows.starts)) if windows else (w, 1)
        for number, mode in enumerate(options["modes"], start=1):
            evaluations = count * int((term_modes == number).sum())
            work["denoise"] += evaluations * evaluation_flops(unet, mode, _shape(texts, h, columns, c), features)
    decode = functools.partial(
        decoding.decode, frames=components.frames(settings), cutoff=settings.cutoff_latent, wrap=settings.wrap
    )
    work["decode"] = count_flops(decode, latents, vaes)
    spectrogram, _ = jax.eval_shape(decode, latents, vaes)
    config = components.mel(settings.height)
    vocode = functools.partial(decoding.vocode, config=config, method=settings.vocoder, wrap=settings.wrap)
    work["vocode"] = count_flops(vocode, _plain(components.vocoder), spectrogram)
    return work


def evaluation_flops(unet: Any, mode: Mode, x: Any, texts: Any) -> int:
    """Counts the floating-point operations of one evaluation of a UNet, with precomputed texts and timesteps.

    Args:
      unet, x, texts: shapes; `x` and `texts` of negative and positive prompt, or of the positive one alone.
    """
    if not mode.guided:
        x, texts = jax.tree.map(lambda a: _shape(1, *a.shape[1:], dtype=a.dtype), (x, texts))
    time = jax.eval_shape(lambda unet, t: unet.project_time(t), unet, _shape(1, dtype=jnp.int32))
    if not mode.cached:
        return count_flops(lambda unet, *inputs: unet.predict(*inputs), unet, x, time, texts)
    _, inner = jax.eval_shape(lambda unet, *inputs: unet.predict_keeping(*inputs), unet, x, time, texts)
    return count_flops(lambda unet, *inputs: unet.predict_reusing(*inputs), unet, x, time, texts, inner)


def _plain(module):
    """Returns the shapes of a module with plain layers."""
    return abstract_arrays(type(module), module.config)


def _shape(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)
