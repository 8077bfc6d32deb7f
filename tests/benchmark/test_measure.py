"""Figures of a benchmark: each stage of each batch size, up to the one that does not fit in memory."""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import jax
import pytest

from its_jax.benchmark import measure
from its_jax.errors import UserError
from its_jax.pipeline import decoding
from its_jax.pipeline.pipeline import Pipeline
from its_jax.runtime import hardware
from its_jax.settings.parse import read_settings
from its_jax.settings.records import STAGES
from its_jax.settings.schema import TERMS
from tests.helpers import model_folder
from tests.helpers.sample_settings import replace_in_term

CONFIG = Path(__file__).parents[2] / "configs" / "default.py"


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    """One device, programs compiled without effort, and products of small matrices."""
    with model_folder.one_quick_device(tmp_path_factory.mktemp("cache")) as patch:
        patch.setattr(hardware, "PRODUCT", (64, 64))
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model_folder.build(folder / "image", vocoder=False)
    model_folder.build(folder / "audio", seed=1)
    config = runpy.run_path(str(CONFIG))["get_config"]()
    config.update_from_flattened_dict(
        {"num_steps": 2, "solver": "ddim", "height": 12, "width": 48, "image.start_step": 1}
        | {f"{term}.model": str(folder / term) for term in TERMS}
    )
    return config.to_dict()


@pytest.fixture(scope="module")
def sample(settings):
    """Settings of two steps, of which the image model has one."""
    return read_settings(settings)[0][0]


@pytest.fixture(scope="module")
def program(sample):
    """A program for batches of two."""
    return Pipeline().compile(sample, pending=2, batch_size=2)


@pytest.fixture(scope="module")
def work(program, sample):
    return measure.stage_flops(program.components, sample)


class FakePipeline:
    """A pipeline whose programs have been compiled already; a batch of more than two fails with `error`."""

    def __init__(self, program, error=""):
        self.program, self.error = program, error

    def compile(self, settings, *, batch_size, **options):
        if batch_size > 2:
            raise jax.errors.JaxRuntimeError(self.error)
        return self.program


def fake(program, error="") -> Any:
    return FakePipeline(program, error)


def test_every_stage_is_timed(settings, program):
    figures = measure.measure_batch(settings | {"batch_size": 2}, repeats=2, pipeline=fake(program))
    assert figures["batch_size"] == 2 and figures["compile_seconds"] > 0 and figures["peak_memory_mb"] > 100
    assert list(figures["stages"]) == [*STAGES, "all"]
    for stage in figures["stages"].values():
        first, second = stage["batch_seconds"]
        assert stage["sample_seconds"] == pytest.approx((first + second) / 4, abs=1e-4)
        assert stage["samples_per_second"] > 0 and stage["gflops"] > 0 and stage["of_matrix_product"] > 0
    assert figures["temporaries_mb"].keys() == {"denoise", "decode", "vocode"}


def test_operations_follow_steps_and_guidance(program, sample, work):
    assert work.keys() == set(STAGES) and min(work.values()) > 0
    unguided = measure.stage_flops(
        program.components, replace_in_term(sample, "image", start_step=0, guidance_scale=1.0)
    )
    # The image model takes two steps without a negative prompt in place of one step with it.
    assert unguided["denoise"] == pytest.approx(work["denoise"])
    assert unguided["encode"] == pytest.approx(work["encode"] * 3 / 4)
    for stage in ("decode", "vocode"):
        assert work[stage] == unguided[stage]
    audio_only = measure.stage_flops(program.components, replace_in_term(sample, "image", weight=0.0))
    assert audio_only["encode"] == pytest.approx(work["encode"] / 2)
    assert audio_only["denoise"] == pytest.approx(work["denoise"] * 2 / 3)


def test_columns_that_are_cut_off_are_not_counted(program, sample, work):
    cut = measure.stage_flops(program.components, dataclasses.replace(sample, cutoff_latent=True))
    assert cut["denoise"] == work["denoise"]
    # The VAE here halves the width. Of 24 latent columns, 4 are neither decoded nor vocoded.
    assert cut["vocode"] == pytest.approx(work["vocode"] * (1 - decoding.CROPPED_LATENTS / 24), rel=2e-3)
    assert cut["decode"] < work["decode"]


def test_batch_sizes_end_with_the_first_that_does_not_fit_in_memory(settings, program):
    error = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."
    sizes, make = [2, 4, 8], lambda: fake(program, error)
    two, four = measure.measure_batches(settings, sizes, repeats=1, new_pipeline=make)
    assert two["batch_size"] == 2 and "stages" in two
    assert four["batch_size"] == 4 and "memory" in four["fault"]


def test_another_error_is_raised(settings, program):
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        list(measure.measure_batches(settings, [4], new_pipeline=lambda: fake(program, "INTERNAL: a bug")))


def test_methods_that_do_not_denoise_one_latent_are_refused(settings):
    with pytest.raises(UserError, match="method='imprint': only methods that denoise one latent are timed"):
        measure.measure_batch(settings | {"method": "imprint"})
