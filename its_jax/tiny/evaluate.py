"""How good the embedded models are: `python -m its_jax.tiny.evaluate --config=configs/default.py --workdir=FOLDER`.

Samples every subject with every sound at the config's settings, and each model alone, through the functions that
`its_jax.sample` runs. Judges (`its_jax.tiny.judges`) say what the picture shows and what the sound, analysed again from
the vocoder's waveform, is. Since judges accept plain blends too, the error with which each model denoises the finished
sample is given beside: it tells how likely the sample is under the model. Writes evaluation.json; resumable.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from its_jax.errors import UserError
from its_jax.runtime import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "The settings to evaluate.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where samples and evaluation.json go.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 4, "Fused samples of each pair.", lower_bound=1)
_SINGLES = flags.DEFINE_integer("singles", 12, "Samples of each subject and of each sound alone.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 12, "Samples at once.", lower_bound=1)


def main():
    if _CONFIG.value is None:
        raise UserError("give --config=FILE.py, say configs/default.py")
    from its_jax.tiny.evaluation import run  # slow, as JAX is: what is wrong with the flags is said before

    settings, workdir = _CONFIG.value.to_dict(), Path(_WORKDIR.value)
    run.run(settings, workdir, seeds=_SEEDS.value, singles=_SINGLES.value, batch=_BATCH.value)


if __name__ == "__main__":
    cli.run(main)
