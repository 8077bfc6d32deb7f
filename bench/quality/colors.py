"""Measures how often colorized images have their subject's usual colors and keep their gray, by subject and method.

    python -m its_jax.sweep --config=configs/comparison.py --axis=method=fused --axis=seed=0 --workdir=work/colors
    python -m its_jax.colorize --workdir=work/colors --config.colorize.trials=1
    python -m bench.quality.colors --workdir=work/colors --out=bench/results/colors.json

`usual` is the fraction of images whose hue is one in which the subject's pictures were drawn, `chance` the fraction of
the images of all other subjects whose hue is, and `gray` the fraction of images with hardly any color (see
`dominant_hue` in `its_jax.tiny.data.colors`). `gray_off` is the largest difference between the mean of the three
channels and the spectrogram, in levels of 1/255. --picture=docs/colors.png shows the first samples of some subjects,
gray and colorized.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from bench import command
from its_jax.colorize import outputs
from its_jax.colorize.settings import METHODS
from its_jax.errors import UserError
from its_jax.media import images
from its_jax.runtime import cli
from its_jax.scoring import metrics
from its_jax.storage import files, samples
from its_jax.tiny import scorer
from its_jax.tiny.data import colors, items

SHOWN = 6  # subjects in the picture


class Colored(NamedTuple):
    """Measurements on one colorized image."""

    subject: str
    hue: str
    gray_error: float  # levels

    @property
    def is_usual(self) -> bool:
        """Returns whether the hue is one of its subject's usual hues."""
        return self.hue in colors.usual_hues(self.subject)


def main():
    make_table(flags.FLAGS.workdir, out=flags.FLAGS.out, picture=flags.FLAGS.picture)


def make_table(workdir: str, *, out: str | None, picture: str | None = None) -> None:
    """Writes the figures of all methods to `out`, and prints them as a table; raises UserError without any images."""
    save = command.results_writer(out)
    made = samples.open_samples(workdir)
    found = measure(made)
    if not any(found.values()):
        raise UserError(f"{workdir}: has no colorized images; generate them with python -m its_jax.colorize")
    table = {method: summarize(colored) for method, colored in found.items() if colored}
    save({"methods": table})
    if picture:
        files.write(picture, images.png(draw_samples(made, list(table)), {}))
    print(to_markdown(table))


def measure(made: Mapping[str, samples.Sample]) -> dict[str, list[Colored]]:
    """Measures all colorized images by method; raises UserError if a prompt names no subject."""
    found: dict[str, list[Colored]] = {method: [] for method in METHODS}
    for sample in made.values():
        for name in sample.colorings:
            image = sample.read_image(name)
            error = 255 * np.abs(image.mean(axis=-1) - sample.read_image()).max()
            found[read_method(sample, name)].append(
                Colored(read_subject(sample), colors.dominant_hue(image), float(error))
            )
    return found


def read_method(sample: samples.Sample, name: str) -> str:
    return sample.coloring_record(name)[outputs.GROUP]["method"]


def read_subject(sample: samples.Sample) -> str:
    """Returns the subject that a sample's prompt names."""
    prompt = sample.record["image"]["prompt"]
    found = scorer.named("picture", prompt)
    if found is None:
        raise UserError(f"{sample.id}: {prompt!r} names none of {', '.join(items.SUBJECTS)}")
    return items.SUBJECTS[found]


def summarize(colored: Sequence[Colored]) -> dict[str, Any]:
    """Returns the figures of one method: for each subject, and for all."""
    by_subject = {name: [one for one in colored if one.subject == name] for name in items.SUBJECTS}
    subjects = {name: summarize_subject(name, own, colored) for name, own in by_subject.items() if own}
    right = sum(one.is_usual for one in colored)
    return {
        "subjects": subjects,
        "n": len(colored),
        "usual": round(right / len(colored), 3),
        "interval": [round(end, 3) for end in metrics.wilson_interval(right, len(colored))],
        "chance": mean(figures["chance"] for figures in subjects.values()),
        "gray": mean(one.hue == "gray" for one in colored),
        "gray_off": round(max(one.gray_error for one in colored), 3),
    }


def summarize_subject(subject: str, own: Sequence[Colored], colored: Sequence[Colored]) -> dict[str, Any]:
    """Returns the figures of one subject."""
    usual, others = colors.usual_hues(subject), [one for one in colored if one.subject != subject]
    return {
        "hues": sorted(usual),
        "found": dict(collections.Counter(one.hue for one in own).most_common()),
        "n": len(own),
        "usual": mean(one.is_usual for one in own),
        "chance": mean(one.hue in usual for one in others),
        "gray": mean(one.hue == "gray" for one in own),
    }


def mean(values):
    values = list(values)
    return round(float(np.mean(values)), 3) if values else 0.0


def draw_samples(made: Mapping[str, samples.Sample], methods: Sequence[str]) -> np.ndarray:
    """Draws a row for each of some subjects: its first sample, and that sample's first image by each method."""
    shown, captions, left = [], [], list(items.SUBJECTS)
    for sample in made.values():
        if len(left) == len(items.SUBJECTS) - SHOWN:
            break
        first = {read_method(sample, name): name for name in reversed(sample.colorings)}
        if read_subject(sample) in left and first.keys() >= set(methods):
            left.remove(read_subject(sample))
            gray = np.repeat(sample.read_image()[..., None], 3, axis=-1)
            shown += [gray, *(sample.read_image(first[method]) for method in methods)]
            captions += [f"{sample.record['image']['prompt']}\n{name}" for name in ("spectrogram", *methods)]
    return images.contact_sheet(shown, captions, 1 + len(methods))


def to_markdown(table: Mapping[str, Any]) -> str:
    """Returns the table in Markdown, a row for each subject."""
    lines = [f"| | usual colors | {' | '.join(f'{method} | chance' for method in table)} |"]
    lines.append("|---" * (2 + 2 * len(table)) + "|")
    first = next(iter(table.values()))
    for subject, figures in first["subjects"].items():
        cells = [f"{t['subjects'][subject][key]:.0%}" for t in table.values() for key in ("usual", "chance")]
        lines.append(f"| {subject} | {' or '.join(figures['hues'])} | {' | '.join(cells)} |")
    cells = [f"{figures[key]:.0%}" for figures in table.values() for key in ("usual", "chance")]
    lines.append(f"| all | | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the samples.", required=True)
    flags.DEFINE_string("out", None, "JSON file for the table.", required=True)
    flags.DEFINE_string("picture", None, "PNG file that shows some samples.")
    cli.run(main)
