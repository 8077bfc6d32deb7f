"""The figures of a benchmark: every stage at every batch size that fits in memory."""

import dataclasses
import runpy
from pathlib import Path

import jax
import pytest

from its_jax.benchmark import measure
from its_jax.pipeline import decoding
from its_jax.runtime import hardware
from its_jax.settings.parse import read_settings
from its_jax.settings.schema import TERMS
from tests.helpers import model_folder
from tests.helpers.sample_settings import replace_in_term

CONFIG = Path(__file__).parents[2] / "configs" / "default.py"


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    """Uses one device, programs compiled without effort, and products of small matrices."""
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
def program(settings):
    """The compiled stages for batches of two."""
    return measure.compile_program(*read_settings(settings | {"batch_size": 2}))


@pytest.fixture(scope="module")
def components(program):
    return program.components


def test_every_stage_is_timed(settings, program):
    figures = measure.measure_batch(settings | {"batch_size": 2}, repeats=2, compile_program=lambda *_: program)
    assert figures["batch_size"] == 2 and figures["compile_seconds"] > 0 and figures["peak_memory_mb"] > 100
    assert list(figures["stages"]) == [*measure.STAGES, "all"]
    for stage in figures["stages"].values():
        first, second = stage["batch_seconds"]
        assert stage["sample_seconds"] == pytest.approx((first + second) / 4, abs=1e-4)
        assert stage["samples_per_second"] > 0 and stage["gflops"] > 0 and stage["of_matrix_product"] > 0
    assert figures["temporaries_mb"].keys() == {"denoise", "decode", "vocode"}


@pytest.fixture(scope="module")
def one(settings):
    """Settings with two steps; the image model is active at one of them."""
    return read_settings(settings)[0][0]


@pytest.fixture(scope="module")
def work(components, one):
    return measure.stage_flops(components, one)


def test_arithmetic_follows_steps_and_guidance(components, one, work):
    assert work.keys() == set(measure.STAGES) and min(work.values()) > 0
    changed = replace_in_term(one, "image", start_step=0, guidance_scale=1.0)
    other = measure.stage_flops(components, changed)
    assert other["denoise"] == pytest.approx(work["denoise"])  # two steps without a negative prompt in place of one
    assert other["encode"] == pytest.approx(work["encode"] * 3 / 4)
    for stage in ("decode", "vocode"):
        assert work[stage] == other[stage]
    alone = measure.stage_flops(components, replace_in_term(one, "image", weight=0.0))
    assert alone["encode"] == pytest.approx(work["encode"] / 2)
    assert alone["denoise"] == pytest.approx(work["denoise"] * 2 / 3)


def test_columns_that_are_cut_off_are_not_counted(components, one, work):
    """The VAE here halves the width: of 24 latent columns, 4 are neither decoded nor vocoded."""
    cut = measure.stage_flops(components, dataclasses.replace(one, cutoff_latent=True))
    assert cut["denoise"] == work["denoise"]
    assert cut["vocode"] == pytest.approx(work["vocode"] * (1 - decoding.CROPPED_LATENTS / 24), rel=2e-3)
    assert cut["decode"] < work["decode"]


def test_a_sweep_ends_where_a_batch_does_not_fit_in_memory(settings):
    def measure_batch(settings, repeats):
        if settings["batch_size"] > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
        return {"batch_size": settings["batch_size"]}

    one, two, end = measure.sweep(settings, [1, 2, 4, 8], measure=measure_batch)
    assert (one, two) == ({"batch_size": 1}, {"batch_size": 2})
    assert end["batch_size"] == 4 and "memory" in end["fault"]


def test_other_errors_end_a_sweep_with_an_error(settings):
    def measure_batch(settings, repeats):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        list(measure.sweep(settings, [1], measure=measure_batch))
