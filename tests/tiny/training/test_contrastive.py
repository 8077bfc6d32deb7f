"""The contrastive loss of CLIP and CLAP."""

import numpy as np

from its_jax.tiny.data import items
from its_jax.tiny.training import contrastive


def test_a_round_has_one_item_of_each_class():
    chosen = contrastive.rounds(np.random.default_rng(0), 36, 24)
    assert chosen.max() < 36 and len(set(chosen)) > 12
    np.testing.assert_array_equal(chosen % 12, items.labels(24))


def test_the_loss_compares_a_pair_with_the_others_of_its_round_only():
    directions = np.random.default_rng(0).standard_normal((24, 8), np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def loss(embeddings, texts):
        return contrastive.info_nce(embeddings, texts, np.log(2.0), np.log(2.0))

    cosines = directions[:12] @ directions[:12].T
    probabilities = np.exp(2 * cosines) / np.exp(2 * cosines).sum(axis=1, keepdims=True)
    first, second = (loss(x, x) for x in (directions[:12], directions[12:]))
    np.testing.assert_allclose(first, -np.log(np.diag(probabilities)).mean(), rtol=1e-5)
    both = loss(directions, directions)
    np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-5)
    assert loss(directions, np.roll(directions, 1, axis=0)) > both
