"""The flags of XLA for old versions of jaxlib."""

import os
import subprocess
import sys

import pytest

from its_jax.runtime import xla_flags

# Two matrices alternate at the same address in memory. Each product must use the current one.
PRODUCTS = """
import its_jax
import jax
import numpy as np

jax.config.update("jax_cpu_enable_async_dispatch", False)
rng = np.random.default_rng(0)
x = jax.numpy.asarray(rng.random((150, 256), np.float32))
ys = [jax.numpy.asarray(rng.random((256, 1025), np.float32)) for _ in range(2)]
product, again = jax.jit(lambda x, y: x @ y), jax.jit(lambda y: 2 * y)
wanted = [2 * np.asarray(x) @ np.asarray(y) for y in ys]
for _ in range(20):
    for y, z in zip(ys, wanted):
        np.testing.assert_allclose(product(x, again(y)), z, rtol=1e-3)
"""


def test_products_use_the_matrices_that_they_are_given():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run([sys.executable, "-c", PRODUCTS], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.7.2", "", "--xla_cpu_use_xnnpack=false"),
        ("0.8.1", "--xla_x=1", "--xla_x=1 --xla_cpu_use_xnnpack=false"),
        ("0.8.1", "--xla_cpu_use_xnnpack=true", "--xla_cpu_use_xnnpack=true"),
        ("0.8.2", "--xla_x=1", "--xla_x=1"),
        ("0.12.0.1", "", ""),
        ("0.9.dev2", "", ""),
    ],
)
def test_old_versions_disable_xnnpack_unless_the_user_enables_it(version, before, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", before)
    xla_flags.set_flags(version)
    assert os.environ["XLA_FLAGS"] == after
