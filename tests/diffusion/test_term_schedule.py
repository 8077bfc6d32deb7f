"""The steps at which terms are active, their weights there, and the modes in which they are evaluated."""

import numpy as np
import pytest

from its_jax.diffusion.feature_cache import Mode
from its_jax.diffusion.term_schedule import select_modes, term_weights
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
