"""Measures how few steps suffice: the judges' verdicts on the embedded models by solver, step count and shortcuts.

    python -m bench.quality.steps --workdir=work/steps --out=bench/results/steps.json

Every variant generates the same pairs of subject and sound from the same seeds, at the settings of configs/default.py
except for those in its name. `both` is how often image and audio are right, with Wilson's 95 % interval. `lost` and
`won` count samples against DDIM at 100 steps, and `more` is the difference of the rates, with its 95 % interval for
pairs. `error` is the mean squared error with which the models denoise the finished sample, see
`its_jax.tiny.evaluation.scores`. `gflop` is the arithmetic of denoising one sample. An interrupted run continues where
it stopped.
"""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from bench import command
from bench.quality import generation, judged
from its_jax.errors import check_choice
from its_jax.runtime import cli
from its_jax.runtime.cache import keep_programs
from its_jax.settings.schema import TERMS
from its_jax.storage.files import explain_os_errors

# Each subject with every other sound, each sound with every other subject.
PAIRS = [(i, j, 0) for i, j in itertools.product(range(12), range(12)) if (i + j) % 2 == 0]
REFERENCE = "ddim 100"


def solver_steps(solver: str, num_steps: int, **more: Any) -> dict[str, Any]:
    """Returns settings in which the image model starts after a tenth of the steps."""
    return {"solver": solver, "num_steps": num_steps, "image.start_step": round(num_steps / 10), **more}


def guided_between(num_steps: int, start: float, stop: float) -> dict[str, int]:
    """Returns settings with guidance from one fraction of the steps to another."""
    keys = {"guidance_start_step": round(start * num_steps), "guidance_stop_step": round(stop * num_steps)}
    return {f"{term}.{key}": value for term in TERMS for key, value in keys.items()}


VARIANTS = {f"ddim {n}": solver_steps("ddim", n) for n in (100, 50, 25, 15)}
VARIANTS |= {f"dpmpp_2m {n}": solver_steps("dpmpp_2m", n) for n in (25, 20, 15, 12, 10, 8)}
VARIANTS |= {f"dpmpp_2m 20 cache_interval {n}": solver_steps("dpmpp_2m", 20, cache_interval=n) for n in (2, 3, 5)}
VARIANTS |= {
    f"dpmpp_2m 20 guidance {a:.0%} to {b:.0%}": solver_steps("dpmpp_2m", 20, **guided_between(20, a, b))
    for a, b in ((0, 0.8), (0, 0.6), (0.2, 1), (0.2, 0.8))
}


def main():
    names, workdir = flags.FLAGS.variants or list(VARIANTS), Path(flags.FLAGS.workdir)
    for name in names:
        check_choice("--variants", name, VARIANTS)
    save = command.results_writer(flags.FLAGS.out)
    with explain_os_errors(workdir, "create the folder"):
        workdir.mkdir(parents=True, exist_ok=True)
    keep_programs()
    reference, rows = judge_variant(REFERENCE, workdir), {}
    for name in names:
        result = reference if name == REFERENCE else judge_variant(name, workdir)
        rows[name] = compare(result, reference)
        print(f"{name:40} {json.dumps(rows[name])}", flush=True)
        save({"samples": len(reference["error"]), "variants": rows})


def judge_variant(name: str, workdir: Path) -> dict[str, np.ndarray]:
    """Returns the judges' verdicts and the denoising error of each sample, and the arithmetic of one."""
    made = generation.generate_pairs(generation.default_settings(VARIANTS[name]), workdir, PAIRS)
    spectrogram = made["spectrogram"] / np.float32(255)
    right = judged.judge(spectrogram, made["waveform"], {"picture": made["subject"], "sound": made["sound"]})
    return right | {key: made[key] for key in ("error", "gflop")}


def compare(result: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the figures of a variant, and its difference from the reference."""
    both, before = (each["picture"] & each["sound"] for each in (result, reference))
    more = both.astype(int) - before
    half_width = 1.96 * more.std() / len(more) ** 0.5
    return {
        **judged.rates({kind: result[kind] for kind in ("picture", "sound")}),
        "lost": int((more < 0).sum()),
        "won": int((more > 0).sum()),
        "more": round(float(more.mean()), 3),
        "more_interval": [round(float(more.mean() + sign * half_width), 3) for sign in (-1, 1)],
        "error": round(float(result["error"].mean()), 4),
        "gflop": round(float(result["gflop"])),
    }


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder for the samples.", required=True)
    flags.DEFINE_string("out", None, "JSON file for the table.")
    flags.DEFINE_multi_string("variants", [], "Name of a variant, such as 'ddim 50'; all by default.")
    cli.run(main)
