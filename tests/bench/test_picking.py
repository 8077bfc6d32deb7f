"""What the best of several samples is worth."""

import numpy as np

from bench import picking


def test_the_most_liked_of_several_counts():
    liked = np.array([0.1, 0.9, 0.5, 0.2, 0.3, 0.4, 0.8, 0.7])
    right = np.array([True, False, True, True, False, True, False, True])
    assert picking.best_of(1, liked, right) == 0.625
    assert picking.best_of(2, liked, right) == 0.5  # the second, third, sixth and seventh
    assert picking.best_of(8, liked, right) == 0
