"""How few steps do: solvers, step counts and cheaper steps by what the judges find in samples of the embedded models.

    python -m bench.steps --workdir=work/steps --out=bench/results/steps.json

Every variant makes the same pairs of subject and sound from the same seeds, at the settings of configs/default.py but
for what its name says. `both` is the share in which picture and sound are right, with the 95 % interval of Wilson;
`lost` and `won` count samples against DDIM at 100 steps, and `more` is what the share has more than there, with its
95 % interval for pairs. `error` is the mean squared error with which the models denoise the finished sample, see
`its_jax.tiny.evaluation.scores`. `gflop` is the arithmetic of denoising one sample. Goes on where it was broken off.
"""

import argparse
import functools
import itertools
import json
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from bench import flags
from bench.about import about
from its_jax.benchmark.measure import stage_flops
from its_jax.pipeline.sampler import Sampler
from its_jax.runtime.cache import keep_programs
from its_jax.settings.parse import expand
from its_jax.storage.files import write_json
from its_jax.tiny import judges
from its_jax.tiny.data import items
from its_jax.tiny.evaluation import pairs, scores

CONFIG = Path(__file__).parents[1] / "configs" / "default.py"
BATCH = 12
# Each subject with every other sound, each sound with every other subject.
PAIRS = [(i, j, 0) for i, j in itertools.product(range(12), range(12)) if (i + j) % 2 == 0]
REFERENCE = "ddim 100"


def steps(solver, num_steps, **more):
    """The image model starts after a tenth of the steps."""
    return {"solver": solver, "num_steps": num_steps, "image.start_step": round(num_steps / 10), **more}


def guided(num_steps, start, stop):
    """Guidance from a share of the steps to another."""
    keys = {"guidance_start_step": round(start * num_steps), "guidance_stop_step": round(stop * num_steps)}
    return {f"{term}.{key}": value for term in ("image", "audio") for key, value in keys.items()}


VARIANTS = {f"ddim {n}": steps("ddim", n) for n in (100, 50, 25, 15)}
VARIANTS |= {f"dpmpp_2m {n}": steps("dpmpp_2m", n) for n in (25, 20, 15, 12, 10, 8)}
VARIANTS |= {f"dpmpp_2m 20 cache_interval {n}": steps("dpmpp_2m", 20, cache_interval=n) for n in (2, 3, 5)}
VARIANTS |= {
    f"dpmpp_2m 20 guidance {a:.0%} to {b:.0%}": steps("dpmpp_2m", 20, **guided(20, a, b))
    for a, b in ((0, 0.8), (0, 0.6), (0.2, 1), (0.2, 0.8))
}


def main():
    args, told = parsed(argparse.ArgumentParser(description=__doc__.partition("\n")[0]), VARIANTS)
    with told:
        run(args, REFERENCE, lambda name: result(settings_of(VARIANTS[name]), args.workdir), row)


def parsed(parser: argparse.ArgumentParser, variants: Mapping[str, Any]):
    """The flags of a comparison of variants, and a context in which mistakes are told as the parser does."""
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    parser.add_argument("--variants", nargs="+", default=list(variants), choices=variants, metavar="NAME")
    return parser.parse_args(), flags.told(parser)


def run(args: argparse.Namespace, reference: str, result: Callable, row: Callable) -> None:
    """Measures the variants one after the other, each against `reference`.

    Args:
      result: a variant's name -> what is found in each of its samples. row: that, and the reference's -> figures.

    Raises:
      UserError: work folder or file cannot be made.
    """
    flags.check_out(args.out)
    flags.make_folder("--workdir", args.workdir)
    keep_programs()
    before, rows = result(reference), {}
    for name in args.variants:
        rows[name] = row(before if name == reference else result(name), before)
        print(f"{name:40} {json.dumps(rows[name])}", flush=True)
        if args.out:  # after each: it takes hours
            write_json(args.out, {**about(), "samples": len(before["error"]), "variants": rows})


def settings_of(changes):
    config = runpy.run_path(str(CONFIG))["get_config"]()
    config.update_from_flattened_dict(changes)
    settings = config.to_dict()
    del settings["devices_per_sample"]  # it is not a matter of what is made
    return settings


def result(settings, workdir):
    """What the judges find in each sample; and the arithmetic of one."""
    (one,) = expand(settings, 1)
    sampler = Sampler(one, pending=BATCH, batch_size=BATCH)
    samples = pairs.SampleCache(workdir, sampler, settings).samples("fused", PAIRS)
    return judged(samples) | {
        "error": np.mean([scores.denoising_error(getattr(sampler, term), samples, term) for term in TERMS], axis=0),
        "gflop": stage_flops(sampler, one)["denoise"] / 1e9,
    }


def judged(samples):
    """Whether the judges find picture and sound right, each `[n]`; n is a multiple of `BATCH`."""
    spectrogram, blocks = samples["spectrogram"] / np.float32(255), len(samples["waveform"]) // BATCH
    heard = np.concatenate([items.to_spectrogram(block) for block in np.split(samples["waveform"], blocks)])
    return {
        "picture": judges.classify(judge()["picture"], spectrogram) == samples["subject"],
        "sound": judges.classify(judge()["sound"], heard) == samples["sound"],
    }


TERMS = ("image", "audio")


@functools.cache
def judge():
    return {kind: judges.load(kind) for kind in ("picture", "sound")}


def row(result, reference):
    both, before = (of["picture"] & of["sound"] for of in (result, reference))
    interval = stats.binomtest(int(both.sum()), len(both)).proportion_ci(method="wilson")
    more = both.astype(int) - before
    reach = 1.96 * more.std() / len(more) ** 0.5
    return {
        "both": round(float(both.mean()), 3),
        "interval": [round(float(end), 3) for end in interval],
        "picture": round(float(result["picture"].mean()), 3),
        "sound": round(float(result["sound"].mean()), 3),
        "lost": int((more < 0).sum()),
        "won": int((more > 0).sum()),
        "more": round(float(more.mean()), 3),
        "more_interval": [round(float(more.mean() + sign * reach), 3) for sign in (-1, 1)],
        "error": round(float(result["error"].mean()), 4),
        "gflop": round(result["gflop"]),
    }


if __name__ == "__main__":
    main()
