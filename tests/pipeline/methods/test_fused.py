"""The methods that differ from `fused` only in the weights of a step: one model alone, and models in turn."""

import jax
import numpy as np
import pytest

from its_jax import Pipeline
from its_jax.generate import batches
from its_jax.pipeline.step_tables import step_tables
from its_jax.settings.ids import sample_id

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def program(expand):
    return Pipeline().compile(expand()[0], pending=8)


def test_methods_that_differ_only_in_weights_share_programs_but_no_batch(expand):
    requested = {method: expand(method=method, num_samples=1)[0] for method in ("fused", "image_only", "alternating")}
    requested |= {"in twos": expand({"method": "alternating", "image.turn": 2}, num_samples=1)[0]}
    (group,) = batches.program_groups(requested)
    assert len(batches.batch_representatives(group)) == 4
    assert len({sample_id(settings) for settings in requested.values()}) == 4


def evaluated(program, settings):
    """Returns, for each term, 1 at the steps at which its model is evaluated and 0 elsewhere."""
    modes = step_tables(program.components.schedule, [settings]).modes
    return modes[:, : settings.num_steps].astype(bool).astype(int).tolist()


def test_one_model_alone_is_evaluated_at_every_step_and_the_other_never(expand, program):
    """The start steps and weights of both terms have no effect."""
    (image,) = expand(method="image_only", num_samples=1)
    (audio,) = expand({"method": "audio_only", "audio.weight": 0.0, "audio.start_step": 3}, num_samples=1)
    assert evaluated(program, image) == [[1] * 4, [0] * 4]
    assert evaluated(program, audio) == [[0] * 4, [1] * 4]
    (alternating,) = expand(method="alternating", num_samples=1)
    assert evaluated(program, alternating) == [[0, 0, 1, 0], [1, 1, 0, 1]]
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    samples = {settings.method: program([settings])[0] for settings in (image, audio, alternating)}
    assert not compilations
    by_weight = expand({"audio.weight": 0.0, "image.weight": 1.0, "image.start_step": 0}, num_samples=1)
    np.testing.assert_array_equal(samples["image_only"].latents, program(by_weight)[0].latents)
    by_weight = expand({"image.weight": 0.0, "audio.weight": 1.0}, num_samples=1)
    np.testing.assert_array_equal(samples["audio_only"].latents, program(by_weight)[0].latents)
    for sample in samples.values():
        assert sample.fault is None and sample.image.shape == (12, 48, 3)


def test_prompts_of_a_model_that_is_not_evaluated_are_not_warned_about(expand, program, caplog):
    change = {"image.prompt": "a " * 100, "image.start_step": 4, "method": "audio_only"}
    program.warn(expand(change, num_samples=1))
    assert not caplog.messages


def test_alternating_models_continue_from_where_the_other_left_off(expand, program):
    """Two steps, one of each model, equal a run of the image model followed by a run of the audio model."""
    steps = {"num_samples": 1, "num_steps": 2, "image.start_step": 0}
    (alternating,) = program(expand(steps, method="alternating"))
    spans = {"image.stop_step": 1, "audio.start_step": 1, "image.weight": 1.0, "audio.weight": 1.0}
    (one_after_the_other,) = program(expand(steps | spans))
    np.testing.assert_array_equal(alternating.latents, one_after_the_other.latents)
