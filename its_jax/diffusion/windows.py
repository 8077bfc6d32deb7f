"""Latents longer than a model was trained on: windows that overlap along time (MultiDiffusion, arXiv 2302.08113)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


@dataclasses.dataclass(frozen=True)
class Windows:
    """Where windows lie on a latent.

    Attributes:
      size: columns of a window. starts: first column of each. total: columns of the latent; a window that leads
        beyond goes on at the first one.
    """

    size: int
    starts: tuple[int, ...]
    total: int

    @classmethod
    def cover(cls, total: int, size: int, wrap: bool) -> "Windows | None":
        """Windows that overlap by half or more; None if one is enough. `wrap`: also over the joint of a loop."""
        size = min(size, total)
        if wrap:
            count = max(2, -(-2 * total // size))
            return cls(size, tuple(i * total // count for i in range(count)), total)
        if size == total:
            return None
        count = -(-2 * (total - size) // size) + 1
        return cls(size, tuple(i * (total - size) // (count - 1) for i in range(count)), total)

    def average(self, predict: Callable, x: Array, kept: Any = ()) -> tuple[Array, Any]:
        """Predictions on all windows of `[b h w c]`, averaged with weights that fade towards a window's ends.

        One window after the other, so that a long latent takes no more memory than a window.

        Args:
          predict: `(x [b h size c], kept) -> (noise [b h size c], kept)`.
          kept: pytree of `[b windows ...]`, what `predict` keeps for each window.
        """
        columns = (np.array(self.starts)[:, None] + np.arange(self.size)) % self.total
        weights = np.sin(np.pi * (np.arange(self.size) + 0.5) / self.size) ** 2
        sums = np.bincount(columns.ravel(), np.tile(weights, len(columns)), self.total)
        shares = jnp.asarray(weights / sums[columns], jnp.float32)  # [windows size], 1 in sum over windows
        columns = jnp.asarray(columns)

        def add(i, state):
            total, kept = state
            predicted, new = predict(jnp.take(x, columns[i], axis=2), jax.tree.map(lambda a: a[:, i], kept))
            kept = jax.tree.map(lambda a, of_window: a.at[:, i].set(of_window), kept, new)
            return total.at[:, :, columns[i]].add(shares[i][:, None] * predicted), kept

        return lax.fori_loop(0, len(self.starts), add, (jnp.zeros_like(x), kept))
