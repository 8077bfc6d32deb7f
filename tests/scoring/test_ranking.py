"""The best of many samples."""

import pytest

from its_jax.errors import UserError
from its_jax.scoring import ranking

SCORES = {
    "a": {"clip": 9.0, "clap": 1.0},
    "b": {"clip": 8.0, "clap": 9.0},
    "c": {"clip": 7.0, "clap": 8.0},
    "d": {"clip": 1.0, "clap": 9.0},
    "e": {"clip": 0.0, "clap": 0.0},
    "f": {"clip": 99.0},
}


@pytest.mark.parametrize(
    "columns, best, expected",
    [
        (["clip"], 0.5, ["f", "a", "b"]),
        (["clap"], 0.2, ["b", "d"]),  # they are equal
        (["clip", "clap"], 0.6, ["b", "c"]),  # f has no clap, so that it is the best 3 of 5
        (["clip", "clap"], 1, ["b", "a", "d", "c", "e"]),
        (["clip"], 0.01, ["f"]),
    ],
)
def test_the_selected_samples_are_among_the_best_in_every_column(columns, best, expected):
    assert ranking.best_on_all(SCORES, columns, best) == expected


@pytest.mark.parametrize(
    "scores, columns, best, words",
    [
        (SCORES, ["fid"], 0.2, "no sample has the scores fid; known are clap, clip"),
        (SCORES, ["clip", "fid"], 0.2, "no sample has the scores fid; known are clap, clip"),
        ({"a": {}}, ["clip"], 0.2, "no sample has any: --scorers of its_jax.sweep scores"),
        (SCORES, [], 0.2, "known are clap, clip"),
        (
            SCORES,
            ["clip", "clap"],
            0.2,
            "no sample is among the best 20% on clip and clap at once: take",
        ),
        (SCORES, ["clip"], "0.5", "the share of the best is '0.5'"),
        (SCORES, ["clip"], 0, "the share of the best is 0: must be a number above 0"),
        (SCORES, ["clip"], 20, "the share of the best is 20: must be"),
    ],
)
def test_missing_columns_and_wrong_shares_are_named_in_the_error(scores, columns, best, words):
    with pytest.raises(UserError, match=words):
        ranking.best_on_all(scores, columns, best)


def test_samples_without_a_score_are_left_out_with_a_warning(caplog):
    ranking.best_on_all(SCORES, ["clap"], 1)
    assert "1 of 6 samples have no clap, and are left out" in caplog.text
