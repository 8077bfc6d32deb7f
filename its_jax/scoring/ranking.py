"""The best of many samples, by rank on their scores."""

import logging
import math
from collections.abc import Mapping, Sequence

from its_jax.errors import UserError


def best_on_all(scores: Mapping[str, Mapping[str, float]], columns: Sequence[str], best: float = 0.2) -> list[str]:
    """The samples that are among the best of every one of some columns, those first whose ranks are best in all.

    Args:
      scores: sample -> column -> score, of which more is better. Samples without one of the columns do not count.
      best: the share of them that each column lets through, above 0 to 1.

    Raises:
      UserError: no sample has these columns, none is among the best of all of them, or `best` is no share.
    """
    if not (isinstance(best, float | int) and 0 < best <= 1):
        raise UserError(f"the share of the best is {best!r}: must be a number above 0 and at most 1")
    scored = {name: row for name, row in scores.items() if all(column in row for column in columns)}
    if not columns or not scored:
        known = sorted({column for row in scores.values() for column in row})
        hint = (
            f"known are {', '.join(known)}"
            if known
            else "no sample has any: --scorers of its_jax.sweep scores what it makes, its_jax.evaluate what is there"
        )
        missing = [column for column in columns if column not in known] or columns
        raise UserError(f"no sample has the scores {' and '.join(missing) or '(none given)'}; {hint}")
    if len(scored) < len(scores):
        left_out = len(scores) - len(scored)
        logging.warning("%d of %d samples have no %s, and are left out", left_out, len(scores), " and ".join(columns))
    ranks = [_ranks(scored, column) for column in columns]
    let_through = math.ceil(best * len(scored) - 1e-9)
    chosen = [name for name in scored if all(rank[name] < let_through for rank in ranks)]
    if not chosen:
        raise UserError(
            f"no sample is among the best {best:.0%} on {' and '.join(columns)} at once: take a larger share"
        )
    return sorted(chosen, key=lambda name: (sum(rank[name] for rank in ranks), name))


def _ranks(scored, column):
    """Sample -> its place, 0 for the best; equal scores share the place of the first of them."""
    in_order = sorted(scored.values(), key=lambda row: -row[column])
    places = {}
    for place, row in enumerate(in_order):
        places.setdefault(row[column], place)
    return {name: places[row[column]] for name, row in scored.items()}
