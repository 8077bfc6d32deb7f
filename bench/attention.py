"""Attention as a UNet takes it on this device, against the plain form in float32, at the sizes of full size.

    python -m bench.attention --out=attention.json

On a GPU with cuDNN's kernel: a wrong one would be fast, and would change pictures only. Heads have 40, 80 and 160
features with 4096, 1024 and 256 queries, as a canvas of 256 x 1024 pixels has them, and keys are as many, or the 77 of
a text. The exit status is 2 if a result is not that of the plain form.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bench import flags
from bench.about import about
from its_jax.errors import UserError
from its_jax.models import backends
from its_jax.models.layers import attend
from its_jax.storage.files import write_json

SIZES = (40, 4096), (80, 1024), (160, 256)  # features of a head, queries
HEADS, TOKENS = 8, 77
# Relative differences, as norms: 2 units of rounding, for the result and, less, for the weights.
BOUNDS = {"bfloat16": 2**-7, "float16": 2**-10}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    with flags.told(parser):
        flags.check_out(args.out)
        found = {f"{dtype}, {of}": figures for dtype in BOUNDS for of, figures in compared(dtype)}
        device = jax.local_devices()[0].device_kind
        write_json(args.out, {**about(), "device": device, "bounds": BOUNDS, "attentions": found})
        for name, of in found.items():
            print(f"{name:40} {of['form']:8} {of['relative_difference']}")
        if wrong := [name for name, of in found.items() if not of["agrees"]]:
            raise UserError(f"not the plain form's results: {'; '.join(wrong)}")


def compared(dtype: str):
    """Each size with the form that it takes here, and how far its result is from the plain one's."""
    for d, n in SIZES:
        form = backends.attention(jax.local_devices()[0], dtype, d)
        for m in (n, TOKENS):
            q, k, v = (normal(seed, length, d, dtype) for seed, length in enumerate((n, m, m)))
            found = np.asarray(jax.jit(form)(q, k, v), np.float32)
            with jax.default_matmul_precision("highest"):
                expected = np.asarray(jax.jit(attend)(*(a.astype(jnp.float32) for a in (q, k, v))))
            apart = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
            yield (
                f"heads of {d}, {n} queries, {m} keys",
                {
                    "form": form.__name__,
                    "relative_difference": float(f"{apart:.2g}") if np.isfinite(apart) else None,
                    "agrees": apart <= BOUNDS[dtype],
                },
            )


def normal(seed, length, d, dtype):
    """`[2, length, HEADS, d]`; scores have the deviation 3, so that some keys count more than others."""
    values = np.random.default_rng(seed).standard_normal((2, length, HEADS, d), np.float32)
    return jnp.asarray(values * (3 if seed == 0 else 1), dtype)


if __name__ == "__main__":
    main()
