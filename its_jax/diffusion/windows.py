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
    """The positions of overlapping windows on a latent.

    Attributes:
      size: columns of a window.
      starts: first column of each window.
      total: columns of the latent. A window that extends beyond them continues at column 0.
    """

    size: int
    starts: tuple[int, ...]
    total: int

    @classmethod
    def cover(cls, total: int, size: int, wrap: bool) -> "Windows | None":
        """Returns windows that overlap by half or more, or None if a single one is enough.

        With `wrap` the latent is a loop, so that windows also cover the seam between its end and its beginning.
        """
        size = min(size, total)
        if wrap:
            count = max(2, -(-2 * total // size))
            return cls(size, tuple(i * total // count for i in range(count)), total)
        if size == total:
            return None
        count = -(-2 * (total - size) // size) + 1
        return cls(size, tuple(i * (total - size) // (count - 1) for i in range(count)), total)

    def average(self, predict: Callable, x: Array, caches: Any = ()) -> tuple[Array, Any]:
        """Averages the predictions on all windows of `[b h w c]`, with weights that fade towards a window's ends.

        Windows are evaluated one after the other, so that a long latent needs no more memory than one window.

        Args:
          predict: `(x [b h size c], cache) -> (noise [b h size c], cache)`.
          caches: pytree of `[b windows ...]`, the cache of each window.

        Returns:
          noise `[b h w c]`, and the updated caches.
        """
        columns = (np.array(self.starts)[:, None] + np.arange(self.size)) % self.total
        weights = np.sin(np.pi * (np.arange(self.size) + 0.5) / self.size) ** 2
        sums = np.bincount(columns.ravel(), np.tile(weights, len(columns)), self.total)
        shares = jnp.asarray(weights / sums[columns], jnp.float32)  # [windows size]; those of a column sum to 1
        column_index = jnp.asarray(columns)

        def add_window(i, state):
            total, caches = state
            noise, cache = predict(jnp.take(x, column_index[i], axis=2), jax.tree.map(lambda a: a[:, i], caches))
            caches = jax.tree.map(lambda a, updated: a.at[:, i].set(updated), caches, cache)
            return total.at[:, :, column_index[i]].add(shares[i][:, None] * noise), caches

        return lax.fori_loop(0, len(self.starts), add_window, (jnp.zeros_like(x), caches))
