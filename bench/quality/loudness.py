"""Measures how loud samples are as generated, and as their files play.

    python -m its_jax.sweep --config=configs/comparison.py --axis=method=fused --axis=seed=0 --workdir=work/pairs
    python -m bench.quality.loudness --workdir=work/pairs --out=bench/results/loudness.json

The first command makes a sample of each of the 144 pairs of subject and sound at the settings of configs/default.py.
`raw` is the waveform as generated, `written` what a player decodes: integrated loudness in LUFS, true peak in dBFS and
root mean square in dBFS, each as its median, 5th and 95th percentile. `gain` is in dB.
"""

import io
import json
from collections.abc import Sequence

import numpy as np
import soundfile
from absl import flags

from bench import command
from its_jax.errors import UserError
from its_jax.media.loudness import integrated_loudness, true_peak
from its_jax.runtime import cli
from its_jax.storage import samples

LEVELS = {
    "lufs": integrated_loudness,
    "true_peak": lambda waveform, rate: true_peak(waveform),
    "rms": lambda waveform, rate: 10 * np.log10(np.mean(np.square(waveform))),
}


def main():
    save, made = command.results_writer(flags.FLAGS.out), samples.open_samples(flags.FLAGS.workdir).values()
    if not made:
        raise UserError(f"--workdir={flags.FLAGS.workdir}: has no finished samples; make some with its_jax.sweep")
    raw = [sample.read_audio() for sample in made]
    written = [soundfile.read(io.BytesIO(sample.read(sample.audio_file))) for sample in made]
    results = {"samples": len(made), "gain": percentiles([sample.gain_db for sample in made])}
    for name, sounds in (("raw", raw), ("written", written)):
        results[name] = {level: percentiles([measure(*sound) for sound in sounds]) for level, measure in LEVELS.items()}
        print(name, json.dumps(results[name]))
    save(results)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the 5th and the 95th percentile, to a hundredth."""
    return {name: round(float(np.percentile(values, q)), 2) for name, q in (("median", 50), ("p5", 5), ("p95", 95))}


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the samples.", required=True)
    flags.DEFINE_string("out", None, "JSON file for the results.", required=True)
    cli.run(main)
