"""What the method is compared with: one model alone, models in turn."""

import jax
import numpy as np
import pytest

from its_jax import baselines, jobs, plan
from its_jax.sampler import Sampler

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def expand(small):
    return lambda *change, **more: jobs.read(small(*change, **more).to_dict())[0]


@pytest.fixture(scope="module")
def sampler(expand):
    return Sampler(expand()[0], pending=8)


def owners(starts, turns, steps, first=0):
    """Whose turn it is at each step, of one sample."""
    weights = np.zeros((len(starts), 1, steps), np.float32)
    for of_term, start in zip(weights, starts, strict=True):
        of_term[:, start:] = 0.3
    table = baselines.in_turn(weights, np.array(turns)[:, None], first)[:, 0, first:]
    assert table.dtype == np.float32 and set(table.sum(axis=0)) == {1}
    return "".join("iau"[i] for i in table.argmax(axis=0))


def test_terms_take_turns():
    assert owners([0, 0], [1, 1], 6) == "iaiaia"
    assert owners([0, 0], [2, 3], 12) == "iiaaaiiaaaii"
    assert owners([3, 0], [1, 1], 8) == "aaaaiaia"  # before its start the other has its steps
    assert owners([0, 4], [1, 2], 7) == "iiiiaai"
    assert owners([0, 0], [1, 1], 6, first=1) == "iaiai"
    assert owners([0, 3, 0], [1, 1, 1], 7) == "iuuiaui"  # the next takes what one leaves
    weights = np.array([[[0.3, 0.3, 0.0]] * 2, [[0.7, 0.7, 0.0]] * 2], np.float32)
    table = baselines.in_turn(weights, [[1, 2], [1, 1]])
    np.testing.assert_array_equal(table[0], [[1, 0, 0], [1, 1, 0]])  # nobody's beyond the end


def test_methods_that_differ_in_weights_alone_share_programs_but_no_batch(expand):
    todo = {method: expand(method=method, num_samples=1)[0] for method in ("fused", "image_only", "alternating")}
    todo |= {"in twos": expand({"method": "alternating", "image.turn": 2}, num_samples=1)[0]}
    (group,) = plan.groups(todo)
    assert len(plan.of_each_batch(group)) == 4
    assert len({jobs.job_id(job) for job in todo.values()}) == 4


def evaluated(sampler, job):
    *_, chosen = sampler.tables([job])
    return chosen[:, : job["num_steps"]].astype(bool).astype(int).tolist()


def test_one_model_alone_is_asked_at_every_step(expand, sampler, monkeypatch):
    """Whatever the settings say of its own start and of the other's; and the other's is not evaluated."""
    (image,) = expand(method="image_only", num_samples=1)
    (audio,) = expand({"method": "audio_only", "audio.weight": 0.0, "audio.start_step": 3}, num_samples=1)
    assert evaluated(sampler, image) == [[1] * 4, [0] * 4]
    assert evaluated(sampler, audio) == [[0] * 4, [1] * 4]
    (alternating,) = expand(method="alternating", num_samples=1)
    assert evaluated(sampler, alternating) == [[0, 0, 1, 0], [1, 1, 0, 1]]
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    results = {job["method"]: sampler([job])[0] for job in (image, audio, alternating)}
    assert not compilations
    by_weight = expand({"audio.weight": 0.0, "image.weight": 1.0, "image.start_step": 0}, num_samples=1)
    np.testing.assert_array_equal(results["image_only"].latents, sampler(by_weight)[0].latents)
    by_weight = expand({"image.weight": 0.0, "audio.weight": 1.0}, num_samples=1)
    np.testing.assert_array_equal(results["audio_only"].latents, sampler(by_weight)[0].latents)
    for result in results.values():
        assert result.fault is None and result.pictures["image"].shape == (12, 48, 3)


def test_what_is_not_asked_is_not_warned_of(expand, sampler, caplog):
    change = {"image.prompt": "a " * 100, "image.start_step": 4, "method": "audio_only"}
    sampler.warn(expand(change, num_samples=1))
    assert not caplog.messages


def test_turns_are_steps_of_one_model_each(expand, sampler):
    """Two steps, one of each: a run of the other model goes on from where the first one leaves off."""
    steps = {"num_samples": 1, "num_steps": 2, "image.start_step": 0}
    (alternating,) = sampler(expand(steps, method="alternating"))
    spans = {"image.stop_step": 1, "audio.start_step": 1, "image.weight": 1.0, "audio.weight": 1.0}
    (one_after_the_other,) = sampler(expand(steps | spans))
    np.testing.assert_array_equal(alternating.latents, one_after_the_other.latents)
