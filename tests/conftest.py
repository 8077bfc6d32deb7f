"""Eight virtual CPU devices, so that sharding is tested on any machine; no network."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

from tests.helpers.browser import browser, opened  # noqa: F401
from tests.helpers.small import expand, models, quick_programs, small, sources  # noqa: F401


@pytest.fixture
def highest_precision():
    """Float32 matrix products without shortcuts, as parity with PyTorch asks for."""
    with jax.default_matmul_precision("highest"):
        yield
