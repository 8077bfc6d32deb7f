"""Compares attention as a UNet computes it on this device with the plain form in float32, at full-size shapes.

    python -m bench.device.attention --out=attention.json

It matters on a GPU with cuDNN's kernel, because a wrong kernel would be fast and only change images. Heads have 40, 80
and 160 features with 4096, 1024 and 256 queries, as on a canvas of 256 x 1024 pixels. The number of keys is the same,
or the 77 of a text. The exit status is 2 if a result differs from that of the plain form.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from bench import command
from its_jax.errors import UserError
from its_jax.models import backends
from its_jax.models.layers import attend
from its_jax.runtime import cli

SIZES = (40, 4096), (80, 1024), (160, 256)  # features of a head, queries
HEADS, TOKENS = 8, 77
# Relative differences of norms: 2 units of rounding for the result and, smaller, for the attention weights.
BOUNDS = {"bfloat16": 2**-7, "float16": 2**-10}


def main():
    save = command.results_writer(flags.FLAGS.out)
    found = {f"{dtype}, {name}": figures for dtype in BOUNDS for name, figures in compare(dtype)}
    save({"bounds": BOUNDS, "attentions": found})
    for name, figures in found.items():
        print(f"{name:40} {figures['form']:8} {figures['relative_difference']}")
    if wrong := [name for name, figures in found.items() if not figures["agrees"]]:
        raise UserError(f"results differ from those of the plain form: {'; '.join(wrong)}")


def compare(dtype: str, sizes=SIZES, find_form=backends.select_attention) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the form that each size takes here, and the relative difference of its result from the plain form's.

    Args:
      sizes: features of a head and queries. find_form: (device, dtype, features) -> the function to compare.
    """
    for d, n in sizes:
        form = find_form(jax.local_devices()[0], dtype, d)
        for m in (n, TOKENS):
            q, k, v = (normal(seed, length, d, dtype) for seed, length in enumerate((n, m, m)))
            found = np.asarray(jax.jit(form)(q, k, v), np.float32)
            with jax.default_matmul_precision("highest"):
                expected = np.asarray(jax.jit(attend)(*(a.astype(jnp.float32) for a in (q, k, v))))
            difference = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
            yield (
                f"heads of {d}, {n} queries, {m} keys",
                {
                    "form": form.__name__,
                    "relative_difference": float(f"{difference:.2g}") if np.isfinite(difference) else None,
                    "agrees": difference <= BOUNDS[dtype],
                },
            )


def normal(seed, length, d, dtype):
    """Draws `[2, length, HEADS, d]`. Scores get the deviation 3, so that some keys count more than others."""
    values = np.random.default_rng(seed).standard_normal((2, length, HEADS, d), np.float32)
    return jnp.asarray(values * (3 if seed == 0 else 1), dtype)


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "JSON file for the results.", required=True)
    cli.run(main)
