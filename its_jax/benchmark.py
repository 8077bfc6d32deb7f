"""Times the stages that `its_jax.sample` runs: `python -m its_jax.benchmark --config=configs/default.py`.

The programs are the sampler's own, at its batch size (`--config.batch_size` sets it). Compile time is without the cache
of compiled programs, which this command does not use. `--out=FILE.json` writes the figures that are printed.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from its_jax import cli
from its_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Settings, as of its_jax.sample.", lock_config=True)
_REPEATS = flags.DEFINE_integer("repeats", 3, "How many batches are timed, after one that is not.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "A JSON file for the figures.")


def main():
    if _CONFIG.value is None:
        raise UserError("give --config=FILE.py")
    import jax

    from its_jax import media, timing  # slow, as JAX is: what is wrong with the flags is said before

    jax.config.update("jax_enable_compilation_cache", False)
    figures = timing.benchmark(_CONFIG.value.to_dict(), _REPEATS.value)
    for line in timing.lines(figures):
        print(line)
    if _OUT.value:
        Path(_OUT.value).absolute().parent.mkdir(parents=True, exist_ok=True)
        media.write_json(Path(_OUT.value), figures)


if __name__ == "__main__":
    cli.start(main)
