"""Progress of a batch, for progress bars and previews."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# A batch is denoised in this many calls, after each of which progress is reported. Bits do not depend on it.
CALLS = 20


class Progress(NamedTuple):
    """The state of a batch that is being generated.

    Attributes:
      step: the number of steps that are done.
      num_steps: the number of steps in total.
      preview: decodes the current estimate of the clean latents: for each sample an image, float32 `[H, W, 3]` in
        [0, 1], as the term `image` sees it. Costs nothing unless it is called. It holds on to the arrays of this step.
    """

    step: int
    num_steps: int
    preview: Callable[[], list[np.ndarray]]


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Does nothing."""


def split_range(first: int, last: int, calls: int = CALLS) -> list[int]:
    """Returns the bounds of at most `calls` nearly equal parts of the steps first, ..., last - 1, in rising order."""
    return sorted({first + round((last - first) * i / calls) for i in range(calls + 1)})
