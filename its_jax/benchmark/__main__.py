"""Times the stages that `its_jax.sample` runs: `python -m its_jax.benchmark --config=configs/default.py`.

It runs the pipeline's own programs at the batch size of the config, or at those of `--batches=1,2,4,8` as far as they
fit in memory, each with newly loaded models and newly compiled programs. This command does not use the cache of
compiled programs. `--out=FILE.json` keeps the figures that are printed, after each batch size.
`python -m bench.peer.random_models` writes full-size models with random weights.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from its_jax.errors import UserError
from its_jax.runtime import cli
from its_jax.settings.parse import read_settings

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The settings, as for its_jax.sample.", lock_config=True, allow_override=True
)
_BATCHES = flags.DEFINE_list("batches", [], "Batch sizes; by default that of the config.")
_REPEATS = flags.DEFINE_integer(
    "repeats", 3, "The number of batches that are timed, after one that is not.", lower_bound=1
)
_OUT = flags.DEFINE_string("out", None, "A JSON file for the figures.")


def main():
    if _CONFIG.value is None:
        raise UserError("give --config=FILE.py")
    settings, batches = _CONFIG.value.to_dict(), _sizes(_BATCHES.value)
    requested, _ = read_settings(settings)
    out = Path(_OUT.value).absolute() if _OUT.value else None
    if out:
        cli.check_out(out)
    import jax

    from its_jax.benchmark import measure
    from its_jax.storage.files import (
        write_json,  # slow, as JAX is: what is wrong with flags and settings is said before
    )

    jax.config.update("jax_enable_compilation_cache", False)
    at_once = max(1, jax.local_device_count() // max(1, settings["devices_per_sample"]))  # the pipeline checks them
    batches = sorted({-(-b // at_once) * at_once for b in batches})  # as the pipeline rounds them
    figures = measure.about(requested[0])
    print(f"{figures['machine']}, {requested[0].dtype}")
    for of_batch in measure.sweep(settings, batches, _REPEATS.value):
        figures["batches"].append(of_batch)
        _say(_lines(of_batch))
        if out:
            write_json(out, figures)
    if len(batches) > 1:
        _say(_table(figures["batches"]))


def _say(lines):
    for line in lines:
        print(line, flush=True)


def _sizes(texts):
    if not all(text.isdecimal() and int(text) for text in texts):
        raise UserError(f"--batches={','.join(texts)}: must be numbers of 1 or more with commas between")
    return list(map(int, texts))


def _lines(figures):
    if "fault" in figures:
        yield f"batches of {figures['batch_size']}: {figures['fault']}"
        return
    load, compile_, peak = (figures[key] for key in ("load_seconds", "compile_seconds", "peak_memory_mb"))
    yield f"batches of {figures['batch_size']}: load {load} s, compile {compile_} s, peak memory {peak} MB"
    yield f"a matrix product runs at {figures['matrix_product_gflops']} GFLOP/s"
    yield f"{'':8} {_COLUMNS}"
    for stage, of in figures["stages"].items():
        yield f"{stage:8} {_numbers(of)}"


def _table(batches):
    yield f"{'batch':8} {_COLUMNS} {'peak MB':>10} {'temporaries':>12}"
    for of in batches:
        if "fault" in of:
            yield f"{of['batch_size']:<8} {of['fault']}"
        else:
            memory = f"{of['peak_memory_mb']:10} {max(of['temporaries_mb'].values()):12}"
            yield f"{of['batch_size']:<8} {_numbers(of['stages']['all'])} {memory}"


_COLUMNS = f"{'s a sample':>12} {'samples/s':>10} {'GFLOP':>10} {'GFLOP/s':>10} {'of product':>10}"


def _numbers(of):
    numbers = (of[key] for key in ("sample_seconds", "samples_per_second", "sample_gflop", "gflops"))
    return "{:12.4g} {:10.4g} {:10.1f} {:10.1f}".format(*numbers) + f" {of['of_matrix_product']:10.0%}"


if __name__ == "__main__":
    cli.run(main)
