"""Whether coloured pictures have their subject's usual colours, and keep their grey: by subject and by method.

    python -m its_jax.sweep --config=configs/comparison.py --axis=method=fused --axis=seed=0 --workdir=work/colours
    python -m its_jax.colorize --workdir=work/colours --config.colorize.trials=1
    python -m bench.colours --workdir=work/colours --out=bench/results/colours.json

`bench.latent_colours` tells how to add pictures by the other method. `usual` is the share of pictures whose hue is one
that the subject's pictures were drawn in, `chance` the share of the pictures of all other subjects whose hue is, and
`grey` the share of pictures with hardly any colour (see `hue` in `its_jax.tiny.data.colors`). `grey_off` is how far the
mean of the three channels is from the spectrogram at most, in levels of 1/255. --picture=docs/colours.png shows some
subjects' first samples, grey and coloured.
"""

import argparse
import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import flags
from bench.about import about
from its_jax.colorize import outputs
from its_jax.colorize.settings import METHODS
from its_jax.errors import UserError
from its_jax.media import images
from its_jax.scoring import metrics
from its_jax.storage import files, samples
from its_jax.storage.files import write_json
from its_jax.tiny import scorer
from its_jax.tiny.data import colors, items

SHOWN = 6  # subjects in the picture


class Seen(NamedTuple):
    """What is seen in one coloured picture."""

    subject: str
    hue: str
    grey_off: float  # levels


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the table")
    parser.add_argument("--picture", type=Path, help="PNG file")
    args = parser.parse_args()
    with flags.told(parser):
        flags.check_out(args.out)
        made = samples.open_samples(args.workdir)
        seen = of_methods(made)
        if not any(seen.values()):
            raise UserError(f"{args.workdir}: has no coloured pictures; make them with python -m its_jax.colorize")
        table = {method: rows(of) for method, of in seen.items() if of}
        write_json(args.out, {**about(), "methods": table})
        if args.picture:
            files.write(args.picture, images.png(picture(made, list(table)), {}))
    print(markdown(table))


def of_methods(made: Mapping[str, samples.Sample]) -> dict[str, list[Seen]]:
    """What is seen in all coloured pictures. UserError: one cannot be read, or its prompt names no subject."""
    seen: dict[str, list[Seen]] = {method: [] for method in METHODS}
    for sample in made.values():
        for name in sample.colorings:
            coloured = sample.read_image(name)
            off = 255 * np.abs(coloured.mean(axis=-1) - sample.read_image()).max()
            seen[_method(sample, name)].append(Seen(_subject(sample), colors.hue(coloured), float(off)))
    return seen


def _method(sample, name):
    return sample.coloring_record(name)[outputs.GROUP]["method"]


def _subject(sample):
    prompt = sample.record["image"]["prompt"]
    found = scorer.named("picture", prompt)
    if found is None:
        raise UserError(f"{sample.id}: {prompt!r} names none of {', '.join(items.SUBJECTS)}")
    return items.SUBJECTS[found]


def rows(seen: Sequence[Seen]) -> dict[str, Any]:
    """Figures of one method: of each subject, and of all."""
    of_subject = {name: [one for one in seen if one.subject == name] for name in items.SUBJECTS}
    table = {name: row(name, of, seen) for name, of in of_subject.items() if of}
    right = sum(_is_usual(one.subject, one) for one in seen)
    return {
        "subjects": table,
        "n": len(seen),
        "usual": round(right / len(seen), 3),
        "interval": [round(end, 3) for end in metrics.wilson_interval(right, len(seen))],
        "chance": round(float(np.mean([of["chance"] for of in table.values()])), 3),
        "grey": round(float(np.mean([one.hue == "grey" for one in seen])), 3),
        "grey_off": round(max(one.grey_off for one in seen), 3),
    }


def row(subject, of, seen):
    others = [one for one in seen if one.subject != subject]
    return {
        "hues": sorted(colors.usual(subject)),
        "found": dict(collections.Counter(one.hue for one in of).most_common()),
        "n": len(of),
        "usual": round(float(np.mean([_is_usual(subject, one) for one in of])), 3),
        "chance": round(float(np.mean([_is_usual(subject, one) for one in others])), 3) if others else 0.0,
        "grey": round(float(np.mean([one.hue == "grey" for one in of])), 3),
    }


def _is_usual(subject, one):
    return one.hue in colors.usual(subject)


def picture(made, methods):
    """A row for each of some subjects: its first sample, and its first picture by each method."""
    shown, captions, left = [], [], list(items.SUBJECTS)
    for sample in made.values():
        if len(left) == len(items.SUBJECTS) - SHOWN:
            break
        first = {_method(sample, name): name for name in reversed(sample.colorings)}
        if _subject(sample) in left and first.keys() >= set(methods):
            left.remove(_subject(sample))
            grey = np.repeat(sample.read_image()[..., None], 3, axis=-1)
            shown += [grey, *(sample.read_image(first[method]) for method in methods)]
            captions += [f"{sample.record['image']['prompt']}\n{name}" for name in ("spectrogram", *methods)]
    return images.contact_sheet(shown, captions, 1 + len(methods))


def markdown(table):
    lines = [f"| | usual colours | {' | '.join(f'{method} | by chance' for method in table)} |"]
    lines.append("|---" * (2 + 2 * len(table)) + "|")
    first = next(iter(table.values()))
    for subject, of in first["subjects"].items():
        cells = [f"{t['subjects'][subject][key]:.0%}" for t in table.values() for key in ("usual", "chance")]
        lines.append(f"| {subject} | {' or '.join(of['hues'])} | {' | '.join(cells)} |")
    cells = [f"{of[key]:.0%}" for of in table.values() for key in ("usual", "chance")]
    lines.append(f"| all | | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
