"""The judges as a scorer of sweeps."""

import numpy as np

from its_jax.scoring import registry
from its_jax.scoring.item import Item
from its_jax.tiny import scorer
from its_jax.tiny.data import items, pictures, sounds
from tests.helpers.sample_settings import default_settings


def item(image, audio, subject="dog", sound="bell"):
    """Returns a drawn image and a synthesized sound with the given prompts."""
    return Item(
        default_settings({"image.prompt": image, "audio.prompt": audio}),
        {},
        np.clip(pictures.draw(subject, items.generator("picture", "held_out", 1)), 0, 1).astype(np.float32),
        sounds.synthesize(sound, items.generator("sound", "held_out", 1)),
        16000,
    )


def test_samples_of_the_prompts_score_high_and_others_low():
    matching = item("a painting of dogs, grayscale", "church bells ringing")
    other = item("a drawing of castle towers", "dog barking")
    scores = scorer.right([matching, other])
    assert scores["picture"][0] > 90 and scores["sound"][0] > 90
    assert scores["picture"][1] < 10 and scores["sound"][1] < 10


def test_prompts_that_the_judges_do_not_know_have_no_score():
    scores = registry.score_item([scorer.right], item("a painting of zebras", "church bells ringing"))
    assert scores["scores"].keys() == {"sound"}


def test_the_longest_phrase_of_a_prompt_counts():
    assert scorer.named("picture", "Castle towers") == items.SUBJECTS.index("castle")
    assert scorer.named("sound", "a dog barking in the rain") == items.SOUNDS.index("dog")
    assert scorer.named("sound", "silence") is None


def test_the_registry_finds_the_scorer_by_its_name():
    assert registry.load_scorers("its_jax.tiny.scorer:right") == [scorer.right]
