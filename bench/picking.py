"""How much the best of several samples is worth, by who picks it: of the samples that configs/comparison.py makes.

    python -m bench.picking --workdir=work/comparison --second=work/success --out=bench/results/picking.json

`right` is how often judges find picture and sound right, and `both` of them, in all fused samples; `second` the same of
judges that learnt from drawings and sounds of their own (`bench.success`, whose work folder --second is), and
`second_where_wrong` how often these find right what the first find wrong. `best_of` is the share of picks in which the
first judges find both right, if 1, 2, 4 or 8 samples of a pair of prompts are made, each at full cost, and one is
picked by the sum of embedded CLIP's and CLAP's scores, by the second judges, or by the first themselves, which is the
most that picking can do.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from bench import comparison, flags, steps, success
from bench.about import about
from its_jax.errors import UserError
from its_jax.storage.files import write_json

COUNTS = 1, 2, 4, 8


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--second", type=Path, required=True, help="folder of the second judges")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    with flags.told(parser):
        flags.check_out(args.out)
        made = grouped(comparison.of_methods(args.workdir)[comparison.REFERENCE])
        found = figures(made, steps.judge(), success.second_judges(args.second))
        print(json.dumps(found, indent=1))
        if args.out:
            write_json(args.out, {**about(), **found})


def grouped(made):
    """Samples by pair of prompts, `max(COUNTS)` of each. UserError: a pair has fewer."""
    groups: dict[tuple[str, str], list] = {}
    for (image, audio, _), sample in sorted(made.items()):
        groups.setdefault((image, audio), []).append(sample)
    for pair, of in groups.items():
        if len(of) < max(COUNTS):
            raise UserError(f"{len(of)} fused samples of {' and '.join(pair)}: there must be {max(COUNTS)}")
    return [of[: max(COUNTS)] for of in groups.values()]


def figures(groups, first, second):
    """What the docstring above tells, of samples `[pairs][max(COUNTS)]`."""
    samples = [sample for group in groups for sample in group]
    (seen, chances), (seen_by_second, second_chances) = (comparison.judged(samples, by) for by in (first, second))
    both, both_second = (np.logical_and(*of.values()) for of in (seen, seen_by_second))
    pickers = {
        "scores": [comparison.sum_of(sample) for sample in samples],
        "second_judges": second_chances,
        "judges": chances,
    }
    return {
        "samples": len(samples),
        "right": shares(seen, both),
        "second": shares(seen_by_second, both_second),
        "second_where_wrong": {kind: share(seen_by_second[kind][~seen[kind]]) for kind in seen},
        "best_of": {name: {n: best_of(n, np.array(liked), both) for n in COUNTS} for name, liked in pickers.items()},
    }


def shares(right, both):
    return {kind: share(of) for kind, of in right.items()} | {"both": share(both)}


def share(right):
    return round(float(np.mean(right)), 3)


def best_of(n, liked, right):
    """The share of right ones among the most liked of n and n samples."""
    best = liked.reshape(-1, n).argmax(axis=1)
    return share(right.reshape(-1, n)[np.arange(len(best)), best])


if __name__ == "__main__":
    main()
