"""The judges as a scorer of sweeps."""

import numpy as np

from its_jax.scoring import registry
from its_jax.scoring.item import Item
from its_jax.tiny import scorer
from its_jax.tiny.data import items, pictures, sounds
from tests.helpers.sample_settings import default_settings


def item(image, audio, subject="dog", sound="bell"):
    """A picture and a sound made by program, and the prompts that they are held against."""
    return Item(
        default_settings({"image.prompt": image, "audio.prompt": audio}),
        {},
        np.clip(pictures.draw(subject, items.generator("picture", "held_out", 1)), 0, 1).astype(np.float32),
        sounds.synthesize(sound, items.generator("sound", "held_out", 1)),
        16000,
    )


def test_what_was_asked_for_scores_high_and_other_things_low():
    found = scorer.right(
        [
            item("a painting of dogs, grayscale", "church bells ringing"),
            item("a drawing of castle towers", "dog barking"),
        ]
    )
    assert found["picture"][0] > 90 and found["sound"][0] > 90
    assert found["picture"][1] < 10 and found["sound"][1] < 10


def test_what_the_judges_do_not_know_has_no_score():
    scores = registry.score_item([scorer.right], item("a painting of zebras", "church bells ringing"))
    assert scores["scores"].keys() == {"sound"}
    assert registry.load_scorers("its_jax.tiny.scorer:right") == [scorer.right]
