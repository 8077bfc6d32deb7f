"""Measures the time, the arithmetic and the memory of the stages of the pipeline."""

import datetime
import functools
import importlib.metadata
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.benchmark.flops import count_flops
from its_jax.diffusion.feature_cache import Mode
from its_jax.errors import UserError
from its_jax.models.state_dict import abstract_arrays
from its_jax.pipeline import decoding, prompts
from its_jax.pipeline.batching import OUT_OF_MEMORY
from its_jax.pipeline.components import Components
from its_jax.pipeline.pipeline import Pipeline
from its_jax.pipeline.step_tables import step_tables, term_options
from its_jax.runtime import hardware
from its_jax.settings.methods import METHODS
from its_jax.settings.parse import expand, read_settings
from its_jax.settings.records import STAGES
from its_jax.settings.schema import RunOptions, SampleSettings, term_names
from its_jax.settings.steps import is_active, term_prompts

_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def describe(settings: SampleSettings) -> dict[str, Any]:
    """Returns what is measured, and on which machine; `batches` is still empty."""
    return {
        "machine": hardware.describe(),
        "date": datetime.date.today().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "settings": settings.to_dict(),
        "batches": [],
    }


def measure_batches(
    settings: Mapping[str, Any],
    batch_sizes: Sequence[int],
    repeats: int = 3,
    new_pipeline: Callable[[], Pipeline] = Pipeline,
) -> Iterator[dict[str, Any]]:
    """Yields the figures of one batch size after another, see `measure_batch`.

    The first batch size that does not fit in memory is the last: its figures are `batch_size` and a `fault`.

    Args:
      settings: a config as a dictionary. batch_sizes: rising, because the peak of memory is that of the process so far.
        Without any, the batch size of the config is measured.
      new_pipeline: makes a pipeline for each batch size, so that loading is measured, too.
    """
    for batch_size in batch_sizes or [settings["batch_size"]]:
        try:
            yield measure_batch({**settings, "batch_size": batch_size}, repeats, new_pipeline())
        except (jax.errors.JaxRuntimeError, UserError) as error:
            # A batch that the compiler refuses is a UserError, whose cause is the compiler's error.
            if OUT_OF_MEMORY not in f"{error} {error.__cause__}":
                raise
            yield {"batch_size": batch_size, "fault": "more than the memory holds"}
            return


def measure_batch(settings: Mapping[str, Any], repeats: int = 3, pipeline: Pipeline | None = None) -> dict[str, Any]:
    """Returns the figures of one batch size as plain values; those of a stage are medians over `repeats` batches.

    Args:
      settings: a config as a dictionary; its batch size, or that which 0 chooses for its number of samples.
      pipeline: a pipeline to use in place of a new one.

    Raises:
      UserError: a setting is wrong, or the method does not denoise one latent per sample.
    """
    requested, options = read_settings(settings)
    one = requested[0]
    method = METHODS[one.method]
    if method.separate_runs or not method.denoises:
        raise UserError(f"method={one.method!r}: only methods that denoise one latent are timed; choose another")
    measured = _measure_program(requested, options, settings, repeats, pipeline or Pipeline())
    # The models are freed by now, so that the matrices do not add to their memory.
    limit = hardware.matrix_rate(one.dtype)
    stages = {
        stage: _stage_figures(measured.seconds[stage], measured.flops[stage], measured.batch_size, limit)
        for stage in (*STAGES, "all")
    }
    return {
        "batch_size": measured.batch_size,
        "devices": jax.local_device_count(),
        "devices_per_sample": options.devices_per_sample,
        "load_seconds": round(measured.load_seconds, 2),
        "compile_seconds": round(measured.compile_seconds, 2),
        "matrix_product_gflops": round(limit / 1e9, 1),
        "peak_memory_mb": round(measured.peak_bytes / 1e6),
        "temporaries_mb": {name: round(size / 1e6, 3) for name, size in measured.temporary_bytes.items()},
        "stages": stages,
    }


class _Measured(NamedTuple):
    """Measurements of a program.

    Attributes:
      seconds: of each stage and of 'all', for each batch. flops: of each stage and of 'all', for one sample.
      peak_bytes: the most memory that the first device, or this process on a CPU, has used.
      temporary_bytes: temporary memory of each compiled program.
    """

    batch_size: int
    seconds: dict[str, list[float]]
    flops: dict[str, int]
    load_seconds: float
    compile_seconds: float
    peak_bytes: int
    temporary_bytes: dict[str, int]


def _measure_program(
    requested: Sequence[SampleSettings],
    options: RunOptions,
    settings: Mapping[str, Any],
    repeats: int,
    pipeline: Pipeline,
) -> _Measured:
    """Compiles a program and runs batches of it."""
    program = pipeline.compile(
        requested[0],
        pending=options.batch_size or len(requested),
        batch_size=options.batch_size,
        devices_per_sample=options.devices_per_sample,
    )
    size = program.batch_size
    program(_numbered_batch(settings, size, 0))  # It is not timed, because some work is done only once.
    runs = [program(_numbered_batch(settings, size, i + 1))[0].seconds for i in range(repeats)]
    seconds = {stage: [run[stage] for run in runs] for stage in STAGES}
    peak, flops = hardware.peak_memory(), stage_flops(program.components, requested[0])
    stages: dict[str, Any] = dict(program.programs)
    temporaries = {name: stage.memory_analysis().temp_size_in_bytes for name, stage in stages.items()}
    return _Measured(
        batch_size=size,
        seconds=seconds | {"all": [sum(of_batch) for of_batch in zip(*seconds.values(), strict=True)]},
        flops=flops | {"all": sum(flops.values())},
        load_seconds=program.seconds["load"],
        compile_seconds=program.seconds["compile"],
        peak_bytes=peak,
        temporary_bytes=temporaries,
    )


def _numbered_batch(settings: Mapping[str, Any], size: int, number: int) -> list[SampleSettings]:
    """Returns the settings of a batch whose prompts no other sample has, so that all of them are encoded."""

    def numbered(i: int) -> SampleSettings:
        ends = {key: f" {number} {i}" for key in ("prompt", "negative_prompt")}
        terms = {
            term: settings[term] | {key: settings[term][key] + end for key, end in ends.items()}
            for term in term_names(settings)
        }
        return expand({**settings, **terms}, 1)[0]

    return [numbered(i) for i in range(size)]


def _stage_figures(seconds: Sequence[float], flops: int, batch_size: int, limit: float) -> dict[str, Any]:
    """Returns the figures of a stage.

    Args:
      seconds: of each batch. flops: of one sample. limit: FLOP/s of a matrix product.
    """
    median = statistics.median(seconds)
    rate = flops * batch_size / median
    return {
        "batch_seconds": [round(value, 4) for value in seconds],
        "sample_seconds": round(median / batch_size, 4),
        "samples_per_second": round(batch_size / median, 4),
        "sample_gflop": round(flops / 1e9, 3),
        "gflops": round(rate / 1e9, 2),
        "of_matrix_product": round(rate / limit, 4),
    }


def stage_flops(components: Components, settings: SampleSettings) -> dict[str, int]:
    """Counts the floating-point operations of one sample by stage, in products as the reference layers compute them.

    Prompts are counted as if no other sample had them, and each term at the steps at which it is active.
    See `its_jax.benchmark.flops`.
    """
    work = dict.fromkeys(STAGES, 0)
    modes = step_tables(components.schedule, [settings]).modes
    for name, term_steps in zip(components.models, modes, strict=True):
        encode, denoise = _term_flops(components, settings, name, term_steps)
        work["encode"] += encode * is_active(settings, name)
        work["denoise"] += denoise
    latents, vaes = _shape(1, *components.latent_shape(settings)), tuple(map(_reference, components.vaes))
    frames = components.frames(settings)
    decode = functools.partial(decoding.decode, frames=frames, cutoff=settings.cutoff_latent, wrap=settings.wrap)
    work["decode"] = count_flops(decode, latents, vaes)
    spectrogram, _ = jax.eval_shape(decode, latents, vaes)
    mel = components.mel(settings.height)
    vocode = functools.partial(decoding.vocode, config=mel, method=settings.vocoder, wrap=settings.wrap)
    work["vocode"] = count_flops(vocode, _reference(components.vocoder), spectrogram)
    return work


def _term_flops(components: Components, settings: SampleSettings, term: str, selected: np.ndarray) -> tuple[int, int]:
    """Counts the floating-point operations of a term's prompts, and of its evaluations.

    Args:
      selected: the mode of each step, see `select_modes`.
    """
    model, (h, w, c) = components.models[term], components.latent_shape(settings)
    text_encoder, unet = _reference(model.text_encoder), _reference(model.unet)
    count = len(term_prompts(settings, term))
    ids = _shape(count, model.tokenizer.model_max_length, dtype=jnp.int32)
    encode = count_flops(prompts.prepare_texts, text_encoder, unet, ids)
    texts = jax.eval_shape(prompts.prepare_texts, text_encoder, unet, ids)
    options = term_options(settings, term, components.vae.config.factor)
    windows = options["windows"]
    columns, repeats = (windows.size, len(windows.starts)) if windows else (w, 1)
    denoise = 0
    for i, mode in enumerate(options["modes"], start=1):
        evaluations = repeats * int((selected == i).sum())
        denoise += evaluations * evaluation_flops(unet, mode, _shape(count, h, columns, c), texts)
    return encode, denoise


def evaluation_flops(unet: Any, mode: Mode, x: Any, texts: Any) -> int:
    """Counts the floating-point operations of one evaluation of a UNet, without what is precomputed.

    Args:
      unet, x, texts: shapes; `x` and `texts` of negative and positive prompt, or of the positive one alone.
    """
    if not mode.guided:
        x, texts = jax.tree.map(lambda a: _shape(1, *a.shape[1:], dtype=a.dtype), (x, texts))
    time = jax.eval_shape(lambda unet, t: unet.project_time(t), unet, _shape(1, dtype=jnp.int32))
    if not mode.cached:
        return count_flops(lambda unet, *inputs: unet.predict(*inputs), unet, x, time, texts)
    _, inner = jax.eval_shape(lambda unet, *inputs: unet.predict_with_features(*inputs), unet, x, time, texts)
    return count_flops(lambda unet, *inputs: unet.predict_from_features(*inputs), unet, x, time, texts, inner)


def _reference(module: Any) -> Any:
    """Returns the shapes of a module with the reference layers, without the kernels that it has for a device."""
    return abstract_arrays(type(module), module.config)


def _shape(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
