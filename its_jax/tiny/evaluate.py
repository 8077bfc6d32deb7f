"""Measures the embedded models: `python -m its_jax.tiny.evaluate --config=configs/default.py --workdir=FOLDER`.

Samples every subject with every sound at the config's settings, and each model alone. Judges (`its_jax.tiny.judges`)
classify the image, and the sound by the spectrogram of the vocoder's waveform. Judges accept plain blends too, so the
table also has the error with which each model denoises the finished sample, which shows how likely the sample is under
that model. Writes evaluation.json and can be resumed.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from its_jax.runtime import cli
from its_jax.settings.schema import setting_docs

_CONFIG = config_flags.DEFINE_config_file("config", None, "The settings to evaluate.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for samples and evaluation.json.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 4, "Fused samples of each pair.", lower_bound=1)
_SINGLES = flags.DEFINE_integer("singles", 12, "Samples of each subject and of each sound alone.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 12, "Batch size.", lower_bound=1)


def main() -> None:
    """Evaluates the config."""
    from its_jax.tiny.evaluation import run  # JAX is slow to import, and errors in flags should appear at once.

    settings, workdir = _CONFIG.value.to_dict(), Path(_WORKDIR.value)
    run.run(settings, workdir, seeds=_SEEDS.value, singles=_SINGLES.value, batch=_BATCH.value)


if __name__ == "__main__":
    cli.run(main, config="default", docs=setting_docs)
