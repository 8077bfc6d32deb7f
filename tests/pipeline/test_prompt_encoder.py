"""Prompts are encoded once and kept, on the device and then on the host, as far as memory allows."""

import dataclasses

import jax
import numpy as np
import pytest

from its_jax import Pipeline
from its_jax.pipeline.prompt_encoder import PromptEncoder

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def components(expand):
    return Pipeline().load(expand()[0])


class CountingTokenizer:
    """Behaves like a model's tokenizer, and lists the prompts that it sees with the name of the model."""

    def __init__(self, tokenizer, source, seen):
        self._tokenizer, self._source, self._seen = tokenizer, source, seen

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, prompts, **options):
        self._seen += [(self._source, prompt) for prompt in prompts]
        return self._tokenizer(prompts, **options)


def counting_encoder(components, **options):
    """Returns an encoder, and the list of (model, prompt) that it encodes."""
    encoded = []
    models = {
        term: dataclasses.replace(model, tokenizer=CountingTokenizer(model.tokenizer, model.source, encoded))
        for term, model in components.models.items()
    }
    return PromptEncoder(models, components.placement, {}, **options), encoded


def leaves(texts):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(texts)]


def test_a_prompt_is_encoded_once(components, expand):
    encoder, encoded = counting_encoder(components)
    encoder.encode([*expand({"image.prompt": "a cat"}), *expand({"image.prompt": "a dog"})])
    assert len(encoded) == 5  # three for the image, two for the sound: the negative prompts are equal
    encoder.encode(expand({"image.prompt": "a cat"}, seed=5))
    assert len(encoded) == 5


def test_prompts_that_make_room_on_the_device_are_kept_on_the_host(components, expand):
    encoder, encoded = counting_encoder(components, device_bytes=0)
    before = leaves(encoder.encode(expand({"image.prompt": "a dog"}, num_samples=1)))
    encoder.encode(expand({"image.prompt": "a cat"}, num_samples=1))
    count = len(encoded)
    after = leaves(encoder.encode(expand({"image.prompt": "a dog"}, num_samples=1)))
    assert len(encoded) == count
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_prompts_are_forgotten_where_the_host_has_no_room(components, expand):
    encoder, encoded = counting_encoder(components, device_bytes=0, host_bytes=0)
    for prompt in ("a dog", "a cat", "a dog"):
        encoder.encode(expand({"image.prompt": prompt}, num_samples=1))
    assert encoded.count((components.models["image"].source, "a dog")) == 2


@pytest.mark.parametrize("change", [{"image.weight": 0.0}, {"image.start_step": 4}])
def test_prompts_of_an_inactive_term_are_not_encoded(components, expand, change):
    encoder, encoded = counting_encoder(components)
    texts = encoder.encode(expand(change | {"image.prompt": "a cat"}, num_samples=1))
    assert {source for source, _ in encoded} == {components.models["audio"].source}
    assert all(not leaf.any() for leaf in leaves(texts["image"]))
