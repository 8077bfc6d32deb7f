"""Selects the best of many samples by the ranks of their scores."""

import logging
import math
from collections.abc import Mapping, Sequence

from its_jax.errors import UserError


def best_on_all(scores: Mapping[str, Mapping[str, float]], columns: Sequence[str], best: float = 0.2) -> list[str]:
    """Returns the samples that are among the best in each of some columns, those with the lowest sum of ranks first.

    Args:
      scores: sample -> column -> score, of which more is better. Samples without one of the columns do not count.
      best: the share of the samples that passes in each column, in (0, 1].

    Raises:
      UserError: no sample has these columns, none is among the best in all of them, or `best` is out of range.
    """
    if not (isinstance(best, float | int) and 0 < best <= 1):
        raise UserError(f"the share of the best is {best!r}: must be a number above 0 and at most 1")
    scored = {name: row for name, row in scores.items() if all(column in row for column in columns)}
    if not columns or not scored:
        raise UserError(_explain_missing(scores, columns))
    if len(scored) < len(scores):
        left_out = len(scores) - len(scored)
        logging.warning("%d of %d samples have no %s, and are left out", left_out, len(scores), " and ".join(columns))
    ranks = [_ranks(scored, column) for column in columns]
    passing = math.ceil(best * len(scored) - 1e-9)
    chosen = [name for name in scored if all(rank[name] < passing for rank in ranks)]
    if not chosen:
        raise UserError(
            f"no sample is among the best {best:.0%} on {' and '.join(columns)} at once: take a larger share"
        )
    return sorted(chosen, key=lambda name: (sum(rank[name] for rank in ranks), name))


def _explain_missing(scores: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> str:
    known = sorted({column for row in scores.values() for column in row})
    hint = (
        f"known are {', '.join(known)}"
        if known
        else "no sample has any: --scorers of its_jax.sweep scores new samples, its_jax.evaluate existing ones"
    )
    missing = [column for column in columns if column not in known] or columns
    return f"no sample has the scores {' and '.join(missing) or '(none given)'}; {hint}"


def _ranks(scored: Mapping[str, Mapping[str, float]], column: str) -> dict[str, int]:
    """Returns the rank of each sample, 0 for the best. Equal scores share the rank of the first of them."""
    in_order = sorted(scored.values(), key=lambda row: -row[column])
    ranks: dict[float, int] = {}
    for rank, row in enumerate(in_order):
        ranks.setdefault(row[column], rank)
    return {name: ranks[row[column]] for name, row in scored.items()}
