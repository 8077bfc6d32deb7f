"""What the method is compared with, as far as it is arithmetic: two models in turn."""

import numpy as np


def in_turn(weights: np.ndarray, turns, first: int = 0) -> np.ndarray:
    """Weights under which the terms alternate: of each step one has all, as artists did before the paper.

    In their order terms have `turns` steps in a row. One that takes no part leaves its step to the next that does.

    Args:
      weights: `[terms b steps]`, 0 where a term takes no part, see `denoise.term_weights`.
      turns: `[terms b]` >= 1. first: the step at which denoising begins, and the first turn.

    Returns:
      float32 `[terms b steps]`, 1 for the term whose turn it is.
    """
    ends, terms = np.cumsum(turns, axis=0), np.arange(len(weights))[:, None, None]
    place = (np.arange(weights.shape[-1]) - first) % ends[-1][:, None]
    owner = (place >= ends[..., None]).sum(axis=0)
    takers = (owner + terms) % len(terms)  # in the order in which a step is offered
    taken = np.take_along_axis(weights > 0, takers, axis=0).argmax(axis=0)
    return ((terms == (owner + taken) % len(terms)) & (weights > 0)).astype(np.float32)
