"""Sweeps of small samples with noise in place of models, in the process of the test."""

from typing import Any

import pytest

from configs import default
from its_jax.sweep.run import run_sweep
from tests.helpers.sweep_driver import FakePipeline


@pytest.fixture
def tiny():
    """Runs a sweep: `tiny(workdir, ["seed=0..3"], layout="shards")`; returns the fake pipeline that it has used."""

    def run(workdir, axes=("seed=0..3",), *, shard=None, plan_only=False, confirmed=False, pipeline=None, **more):
        settings = default.get_config().to_dict() | {"height": 16, "width": 32, "num_samples": 1, "video": False} | more
        used: Any = pipeline or FakePipeline()
        options = {"shard": shard, "plan_only": plan_only, "confirmed": confirmed}
        run_sweep(settings, workdir, axes=list(axes), pipeline=used, **options)
        return used

    return run
