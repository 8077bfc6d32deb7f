"""Makes the paper's table from the samples of configs/comparison.py: scores by method, and how often both are right.

    python -m bench.quality.comparison --workdir=work/comparison --out=bench/results/comparison.json

`clip`, `clap` and their sum `together` are means over samples with the half widths of their 95 % intervals. `both` is
the fraction of samples whose image and audio the judges find right, with Wilson's interval. `fused_more` is the
difference in `together` between the fused samples and those of a method with the same prompts and seeds.
--picture=docs/comparison.png shows some prompts by every method, --plot=docs/comparison_scores.png CLIP against CLAP.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from bench import command
from bench.quality import judged
from its_jax.errors import UserError
from its_jax.evaluate import report
from its_jax.media import images
from its_jax.runtime import cli
from its_jax.scoring import metrics
from its_jax.storage import files, samples
from its_jax.tiny import scorer

METHODS = {
    "fused": "ours",
    "alternating": "in turns",
    "imprint": "imprint",
    "sds": "score distillation",
    "image_only": "image model alone",
    "audio_only": "audio model alone",
}
REFERENCE = "fused"
SHOWN = 2  # pairs of prompts in the picture
BATCH = 240  # samples whose files are read at once

SamplesByPrompts = dict[tuple[str, str, int], samples.Sample]  # by image prompt, audio prompt and seed


def main():
    make_table(flags.FLAGS.workdir, out=flags.FLAGS.out, picture=flags.FLAGS.picture, plot=flags.FLAGS.plot)


def make_table(workdir: str, *, out: str | None, picture: str | None = None, plot: str | None = None) -> None:
    """Writes the figures of all methods to `out`, and prints them as a table."""
    save = command.results_writer(out)
    made = read_samples(workdir)
    table = {method: summarize(made[method], made[REFERENCE]) for method in made}
    save({"methods": table})
    if picture:
        files.write(picture, images.png(draw_samples(made), {}))
    if plot:
        means = {method: {name: (*row[name], row["n"]) for name in ("clip", "clap")} for method, row in table.items()}
        rows = [report.Row(METHODS[method], row["n"], means[method], {}, None) for method, row in table.items()]
        files.write(plot, report.plot(rows))
    print(to_markdown(table))


def read_samples(workdir: str | Path) -> dict[str, SamplesByPrompts]:
    """Reads the samples of each method; raises UserError if there are none of `REFERENCE`, or one has no scores."""
    made: dict[str, SamplesByPrompts] = {method: {} for method in METHODS}
    for sample in samples.open_samples(workdir).values():
        record = sample.record
        if not {"clip", "clap"} <= (record.get("scores") or {}).keys():
            raise UserError(f"{sample.id} has no scores clip and clap: generate samples with configs/comparison.py")
        made[record["method"]][record["image"]["prompt"], record["audio"]["prompt"], record["seed"]] = sample
    if not made[REFERENCE]:
        raise UserError(f"{workdir}: has no sample of the method {REFERENCE}: use configs/comparison.py")
    return {method: found for method, found in made.items() if found}


def summarize(made: SamplesByPrompts, reference: SamplesByPrompts) -> dict[str, Any]:
    """Returns the figures of one method's samples."""
    scores = {name: [sample.record["scores"][name] for sample in made.values()] for name in ("clip", "clap")}
    scores["together"] = [clip + clap for clip, clap in zip(*scores.values(), strict=True)]
    best = {key: sum(sample.record["scores"][name] for name in ("clip", "clap")) for key, sample in reference.items()}
    more = [best[key] - score for key, score in zip(made, scores["together"], strict=True) if key in best]
    means = {name: metrics.mean_and_half_width(values) for name, values in scores.items()}
    return {
        "n": len(made),
        **{name: [round(value, 2) for value in mean] for name, mean in means.items()},
        "fused_more": [round(value, 2) for value in metrics.mean_and_half_width(more)],
        "in_pairs": len(more),
        **judged.rates(judge(list(made.values()))),
    }


def judge(made: Sequence[samples.Sample]) -> dict[str, np.ndarray]:
    """Returns whether the judges find the image and the audio of each sample right, bool `[n]` each."""
    verdicts = []
    for start in range(0, len(made), BATCH):
        block = made[start : start + BATCH]
        expected = {
            kind: [scorer.named(kind, sample.record[term]["prompt"]) for sample in block]
            for kind, term in (("picture", "image"), ("sound", "audio"))
        }
        spectrogram = np.stack([sample.read_image() for sample in block])
        verdicts.append(judged.judge(spectrogram, np.stack([sample.read_audio()[0] for sample in block]), expected))
    return {kind: np.concatenate([verdict[kind] for verdict in verdicts]) for kind in verdicts[0]}


def draw_samples(made: Mapping[str, SamplesByPrompts]) -> np.ndarray:
    """Draws a few pairs of prompts, a column each, by every method, a row each."""
    fewest = min(made.values(), key=len)
    keys = [key for key in fewest if all(key in found for found in made.values())][:SHOWN]
    shown = [(METHODS[method], found[key], key) for method, found in made.items() for key in keys]
    captions = [f"{method}: {image}\n{audio}" for method, _, (image, audio, _) in shown]
    return images.contact_sheet([sample.read_image() for _, sample, _ in shown], captions, len(keys))


def to_markdown(table: Mapping[str, Any]) -> str:
    """Returns the table in Markdown, a row for each method."""
    lines = ["| | n | CLIP | CLAP | together | ours more by | both right |", "|---|---|---|---|---|---|---|"]
    for method, figures in table.items():
        means = [f"{mean:.1f} ± {half:.1f}" for mean, half in (figures[key] for key in ("clip", "clap", "together"))]
        more = "" if method == REFERENCE else "{:.1f} ± {:.1f}".format(*figures["fused_more"])
        low, high = figures["interval"]
        both = f"{figures['both']:.0%} ({low:.0%} to {high:.0%})"
        lines.append(f"| {METHODS[method]} | {' | '.join([str(figures['n']), *means, more, both])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the samples.", required=True)
    flags.DEFINE_string("out", None, "JSON file for the table.", required=True)
    flags.DEFINE_string("picture", None, "PNG file that shows some samples.")
    flags.DEFINE_string("plot", None, "PNG file of CLIP against CLAP.")
    cli.run(main)
