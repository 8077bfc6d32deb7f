"""The steps at which terms are active, their weights there, their modes of evaluation, and alternation."""

import numpy as np
import pytest

from its_jax.diffusion.feature_cache import Mode
from its_jax.diffusion.term_schedule import alternate, select_modes, term_weights
from its_jax.errors import UserError
from tests.helpers.denoising import SCHEDULE


def test_a_term_is_active_until_its_stop_step():
    weights, starts = [[0.5] * 2, [0.5] * 2], [[2, 0], [0, 0]]
    table, active = term_weights(weights, starts, 10, SCHEDULE, stop_steps=[[10, 4], [99, 10]])
    np.testing.assert_array_equal(np.flatnonzero(table[0, 0]), np.arange(2, 10))
    np.testing.assert_array_equal(np.flatnonzero(table[0, 1]), np.arange(4))
    np.testing.assert_array_equal(np.flatnonzero(table[1, 0]), np.arange(10))
    assert active[0, 1] and active[0, 9] and active[1, :10].all() and not active[:, 10:].any()
    with pytest.raises(UserError, match="zero at step 6 of 10 for sample 1"):
        term_weights(weights, starts, 10, SCHEDULE, stop_steps=[[10, 4], [10, 6]])
    term_weights(weights, [[4, 4]] * 2, 10, SCHEDULE, first=4)  # steps before the first one need no term


@pytest.mark.parametrize(
    "weights, starts, message",
    [
        ([[1, 1], [1, -0.5]], [[0, 0], [0, 0]], "weights must be finite and not negative"),
        ([[1, 1], [1, np.nan]], [[0, 0], [0, 0]], "weights must be finite and not negative"),
        ([[1, 1], [1, 1]], [[0, -1], [0, 0]], "start steps must not be negative"),
        ([[1, 1], [1, 1]], [[0, 20], [0, 30]], "zero at step 0 of 20 for sample 1"),
        ([[1, 1], [1, 0]], [[0, 4], [0, 0]], "zero at step 0 of 20 for sample 1"),
        ([[0, 1], [0, 1]], [[0, 0], [0, 0]], "zero at step 0 of 20 for sample 0"),
    ],
)
def test_impossible_weights_and_steps_without_a_term_are_refused(weights, starts, message):
    with pytest.raises(UserError, match=message):
        term_weights(weights, starts, 20, SCHEDULE)


def test_cached_features_are_not_used_until_they_include_the_negative_prompt():
    modes = tuple(Mode(guided, cached) for guided in (True, False) for cached in (False, True))
    active = np.arange(12) >= 1
    guided = np.isin(np.arange(12), [4, 5, 6, 7])
    selected = [modes[i - 1] if i else None for i in select_modes(active, guided, 3, modes)]
    # g: guided, a: not guided; capital letters: cached.
    assert "".join("." if mode is None else "gGaA"[2 * (not mode.guided) + mode.cached] for mode in selected) == (
        ".aAAgGGgAAaA"
    )


def owners(starts, turns, steps, first=0):
    """Returns one letter per step of a sample, for the term to which the step belongs: i, a or u."""
    weights = np.zeros((len(starts), 1, steps), np.float32)
    for per_step, start in zip(weights, starts, strict=True):
        per_step[:, start:] = 0.3
    table = alternate(weights, np.array(turns)[:, None], first)[:, 0, first:]
    assert table.dtype == np.float32 and set(table.sum(axis=0)) == {1}
    return "".join("iau"[i] for i in table.argmax(axis=0))


def test_terms_alternate_at_every_step():
    assert owners([0, 0], [1, 1], 6) == "iaiaia"


def test_a_turn_may_take_several_steps():
    assert owners([0, 0], [2, 3], 12) == "iiaaaiiaaaii"


def test_the_steps_of_an_inactive_term_go_to_the_next_active_one():
    assert owners([3, 0], [1, 1], 8) == "aaaaiaia"
    assert owners([0, 4], [1, 2], 7) == "iiiiaai"
    assert owners([0, 3, 0], [1, 1, 1], 7) == "iuuiaui"


def test_the_first_turn_begins_where_denoising_begins():
    assert owners([0, 0], [1, 1], 6, first=1) == "iaiai"


def test_samples_of_a_batch_alternate_independently():
    weights = np.array([[[0.3, 0.3, 0.0]] * 2, [[0.7, 0.7, 0.0]] * 2], np.float32)
    table = alternate(weights, [[1, 2], [1, 1]])
    np.testing.assert_array_equal(table[0], [[1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(table[:, :, 2], 0)
