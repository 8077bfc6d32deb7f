"""Scorers by name."""

import pytest

from its_jax.scoring import registry


@pytest.mark.parametrize(
    "image_models, expected",
    [
        (["tiny/image"], "clip@tiny/clip,clap@clap_folder,mine:score"),
        (["tiny/image", "someone/model"], "clip, clap@clap_folder,mine:score"),
    ],
)
def test_samples_of_embedded_models_are_scored_by_embedded_models(image_models, expected):
    assert registry.resolve_names("clip, clap@clap_folder,mine:score", image_models) == expected
