"""The paper's table, from the samples that configs/comparison.py makes: scores by method, and how often both are right.

    python -m bench.comparison --workdir=work/comparison --out=bench/results/comparison.json

`clip`, `clap` and `together`, the sum of both, are means over samples and how far their 95 % intervals reach; `both` is
the share of samples in which judges find picture and sound right, with Wilson's interval. `fused_more` is how much more
`together` the fused samples have than a method's of the same prompts and seeds, in pairs. --picture=docs/comparison.png
shows some prompts by every method, --plot=docs/comparison_scores.png CLIP against CLAP.
"""

import argparse
from pathlib import Path

import numpy as np

from bench import flags, steps
from bench.about import about
from its_jax.errors import UserError
from its_jax.evaluate import report
from its_jax.media import images
from its_jax.scoring import metrics
from its_jax.storage import files, samples
from its_jax.storage.files import write_json
from its_jax.tiny import judges, scorer
from its_jax.tiny.data import items

METHODS = {
    "fused": "ours",
    "alternating": "in turns",
    "imprint": "imprint",
    "sds": "score distillation",
    "image_only": "picture's model alone",
    "audio_only": "sound's model alone",
}
REFERENCE = "fused"
SHOWN = 2  # pairs of prompts in the picture
BATCH = 240  # samples of which files are read at once


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the table")
    parser.add_argument("--picture", type=Path, help="PNG file")
    parser.add_argument("--plot", type=Path, help="PNG file")
    args = parser.parse_args()
    with flags.told(parser):
        flags.check_out(args.out)
        made = of_methods(args.workdir)
        table = {method: row(made[method], made[REFERENCE]) for method in made}
        write_json(args.out, {**about(), "methods": table})
        if args.picture:
            files.write(args.picture, images.png(picture(made), {}))
        if args.plot:
            files.write(args.plot, report.plot([plotted(method, table[method]) for method in table]))
    print(markdown(table))


def of_methods(workdir):
    """Method -> (picture's prompt, sound's prompt, seed) -> sample.

    Raises:
      UserError: there are none by `REFERENCE`, or one was not scored.
    """
    made: dict[str, dict] = {method: {} for method in METHODS}
    for sample in samples.open_samples(workdir).values():
        record = sample.record
        if not {"clip", "clap"} <= (record.get("scores") or {}).keys():
            raise UserError(f"{sample.id} has no scores clip and clap: make samples with configs/comparison.py")
        made[record["method"]][record["image"]["prompt"], record["audio"]["prompt"], record["seed"]] = sample
    if not made[REFERENCE]:
        raise UserError(f"{workdir}: has no sample by the method {REFERENCE}: make them with configs/comparison.py")
    return {method: of for method, of in made.items() if of}


def row(made, reference):
    """Figures of one method's samples."""
    scores = {name: np.array([sample.record["scores"][name] for sample in made.values()]) for name in ("clip", "clap")}
    together = scores["clip"] + scores["clap"]
    shared = [key for key in made if key in reference]
    more = [sum_of(reference[key]) - sum_of(made[key]) for key in shared]
    right, _ = judged(list(made.values()), steps.judge())
    both = right["picture"] & right["sound"]
    means = {name: metrics.mean_and_half_width(of) for name, of in {**scores, "together": together}.items()}
    return {
        "n": len(made),
        **{name: [round(value, 2) for value in of] for name, of in means.items()},
        "fused_more": [round(value, 2) for value in metrics.mean_and_half_width(more)],
        "in_pairs": len(shared),
        **{name: round(float(of.mean()), 3) for name, of in right.items()},
        "both": round(float(both.mean()), 3),
        "interval": [round(end, 3) for end in metrics.wilson_interval(int(both.sum()), len(both))],
    }


def sum_of(sample):
    return sample.record["scores"]["clip"] + sample.record["scores"]["clap"]


def judged(made, by):
    """What judges, picture's and sound's, find in samples: kind -> whether it is what was asked for, bool `[n]`; and
    the logarithm of how likely both are, `[n]`."""
    right: dict[str, list] = {kind: [] for kind in by}
    total = []
    for start in range(0, len(made), BATCH):
        some = made[start : start + BATCH]
        seen = np.stack([sample.read_image() for sample in some])
        heard = items.to_spectrogram(np.stack([sample.read_audio()[0] for sample in some]))
        likely = np.zeros(len(some))
        for (kind, judge), pictures, term in zip(by.items(), (seen, heard), steps.TERMS, strict=True):
            wanted = [scorer.named(kind, sample.record[term]["prompt"]) for sample in some]
            chances = np.asarray(judges.log_chances(judge, pictures))
            right[kind].append(chances.argmax(axis=1) == wanted)
            likely += chances[np.arange(len(some)), wanted]
        total.append(likely)
    return {kind: np.concatenate(of) for kind, of in right.items()}, np.concatenate(total)


def picture(made):
    """A few pairs of prompts, a column each, by every method, a row each."""
    scarce = min(made.values(), key=len)
    keys = [key for key in scarce if all(key in of for of in made.values())][:SHOWN]
    shown = [(METHODS[method], of[key], key) for method, of in made.items() for key in keys]
    captions = [f"{method}: {image}\n{audio}" for method, _, (image, audio, _) in shown]
    return images.contact_sheet([sample.read_image() for _, sample, _ in shown], captions, len(keys))


def plotted(method, of):
    return report.Row(METHODS[method], of["n"], {name: (*of[name], of["n"]) for name in ("clip", "clap")}, {}, None)


def markdown(table):
    lines = ["| | n | CLIP | CLAP | together | ours more by | both right |", "|---|---|---|---|---|---|---|"]
    for method, of in table.items():
        scores = (f"{mean:.1f} ± {reach:.1f}" for mean, reach in (of["clip"], of["clap"], of["together"]))
        more = "" if method == REFERENCE else "{:.1f} ± {:.1f}".format(*of["fused_more"])
        low, high = of["interval"]
        both = f"{of['both']:.0%} ({low:.0%} to {high:.0%})"
        lines.append(f"| {METHODS[method]} | {' | '.join([str(of['n']), *scores, more, both])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
