"""Which term has a step when terms alternate."""

import numpy as np

from its_jax.diffusion.term_schedule import alternate


def turns_of(starts, turns, steps, first=0):
    """Returns one letter per step of a sample, for the term whose turn it is: i, a or u."""
    weights = np.zeros((len(starts), 1, steps), np.float32)
    for term_weights, start in zip(weights, starts, strict=True):
        term_weights[:, start:] = 0.3
    table = alternate(weights, np.array(turns)[:, None], first)[:, 0, first:]
    assert table.dtype == np.float32 and set(table.sum(axis=0)) == {1}
    return "".join("iau"[i] for i in table.argmax(axis=0))


def test_terms_alternate_at_every_step():
    assert turns_of([0, 0], [1, 1], 6) == "iaiaia"


def test_a_turn_may_take_several_steps():
    assert turns_of([0, 0], [2, 3], 12) == "iiaaaiiaaaii"


def test_another_term_has_the_steps_of_one_that_has_not_started():
    assert turns_of([3, 0], [1, 1], 8) == "aaaaiaia"
    assert turns_of([0, 4], [1, 2], 7) == "iiiiaai"


def test_the_next_of_three_terms_takes_the_step_of_one_that_has_not_started():
    assert turns_of([0, 3, 0], [1, 1, 1], 7) == "iuuiaui"


def test_the_first_turn_is_at_the_step_where_denoising_begins():
    assert turns_of([0, 0], [1, 1], 6, first=1) == "iaiai"


def test_samples_of_a_batch_have_turns_of_their_own_and_none_beyond_their_steps():
    weights = np.array([[[0.3, 0.3, 0.0]] * 2, [[0.7, 0.7, 0.0]] * 2], np.float32)
    table = alternate(weights, [[1, 2], [1, 1]])
    np.testing.assert_array_equal(table[0], [[1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(table[:, :, 2], 0)
