"""Times the stages that `its_jax.sample` runs: `python -m its_jax.benchmark --config=configs/default.py`.

The programs are those of `its_jax.sample`, at the batch size of the config or at those of `--batches=1,2,4,8`. For each
batch size the models are loaded and the programs compiled again, until a batch does not fit in memory. The cache of
compiled programs is not used. `--out=FILE.json` keeps the printed figures; it is written after each batch size.
`python -m bench.peer.random_models` writes full-size models with random weights.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from its_jax.errors import UserError
from its_jax.runtime import cli
from its_jax.settings.parse import read_settings
from its_jax.settings.schema import setting_docs

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Settings, as its_jax.sample takes them.", lock_config=True, allow_override=True
)
_BATCHES = flags.DEFINE_list("batches", [], "Batch sizes; by default that of the config.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "The number of batches that are timed, after a first one.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "A JSON file for the figures.")


def main() -> None:
    """Runs the benchmark of the flags."""
    settings, sizes = _CONFIG.value.to_dict(), _parse_sizes(_BATCHES.value)
    requested, options = read_settings(settings)
    out = Path(_OUT.value).absolute() if _OUT.value else None
    if out:
        cli.check_out(out)
    import jax  # slow, so that wrong flags and settings are reported before

    from its_jax.benchmark import measure
    from its_jax.storage.files import write_json

    jax.config.update("jax_enable_compilation_cache", False)
    # The pipeline reports a wrong devices_per_sample, and rounds batch sizes in the same way.
    at_once = max(1, jax.local_device_count() // max(1, options.devices_per_sample))
    sizes = sorted({-(-size // at_once) * at_once for size in sizes})
    figures = measure.describe(requested[0])
    print(f"{figures['machine']}, {requested[0].dtype}")
    for batch in measure.measure_batches(settings, sizes, _REPEATS.value):
        figures["batches"].append(batch)
        _print(_lines(batch))
        if out:
            write_json(out, figures)
    if len(sizes) > 1:
        _print(_table(figures["batches"]))


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _parse_sizes(texts: Sequence[str]) -> list[int]:
    """Parses batch sizes, or raises `UserError`."""
    if not all(text.isdecimal() and int(text) for text in texts):
        raise UserError(f"--batches={','.join(texts)}: must be numbers of 1 or more with commas between")
    return list(map(int, texts))


def _lines(batch: Mapping[str, Any]) -> Iterator[str]:
    """Yields the figures of each stage of one batch size as text."""
    if "fault" in batch:
        yield f"batches of {batch['batch_size']}: {batch['fault']}"
        return
    load, compile_, peak = (batch[key] for key in ("load_seconds", "compile_seconds", "peak_memory_mb"))
    yield f"batches of {batch['batch_size']}: load {load} s, compile {compile_} s, peak memory {peak} MB"
    yield f"a matrix product runs at {batch['matrix_product_gflops']} GFLOP/s"
    yield f"{'':8} {_COLUMNS}"
    for name, stage in batch["stages"].items():
        yield f"{name:8} {_numbers(stage)}"


def _table(batches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields a table with a row for each batch size."""
    yield f"{'batch':8} {_COLUMNS} {'peak MB':>10} {'temporaries':>12}"
    for batch in batches:
        if "fault" in batch:
            yield f"{batch['batch_size']:<8} {batch['fault']}"
        else:
            memory = f"{batch['peak_memory_mb']:10} {max(batch['temporaries_mb'].values()):12}"
            yield f"{batch['batch_size']:<8} {_numbers(batch['stages']['all'])} {memory}"


_COLUMNS = f"{'s a sample':>12} {'samples/s':>10} {'GFLOP':>10} {'GFLOP/s':>10} {'of product':>10}"


def _numbers(stage: Mapping[str, float]) -> str:
    """Formats the figures of a stage as a row of the table."""
    numbers = (stage[key] for key in ("sample_seconds", "samples_per_second", "sample_gflop", "gflops"))
    return "{:12.4g} {:10.4g} {:10.1f} {:10.1f}".format(*numbers) + f" {stage['of_matrix_product']:10.0%}"


if __name__ == "__main__":
    cli.run(main, config="default", docs=setting_docs)
