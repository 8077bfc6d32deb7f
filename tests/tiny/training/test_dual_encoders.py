"""The training of CLIP and CLAP."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from its_jax.pipeline.prompts import tokenize
from its_jax.tiny.data import items, pictures, sounds
from its_jax.tiny.recipe import dual_encoder
from its_jax.tiny.training import clap, clip
from tests.helpers.torch_twins import jit

SHALLOW = {
    "text_config": {"num_hidden_layers": 1},
    "vision_config": {"num_hidden_layers": 1},
    "audio_config": {"depths": [1, 1, 1]},
}


def shallow_params(kind):
    """Returns the graph and the parameters of a model with fewer layers."""
    fields = dual_encoder.config(kind)
    fields = fields | {name: fields[name] | change for name, change in SHALLOW.items() if name in fields}
    return nnx.split(dual_encoder.random_clip(fields) if kind == "clip" else dual_encoder.random_clap(fields))


@pytest.mark.parametrize("kind", dual_encoder.KINDS)
def test_every_parameter_has_a_gradient(kind):
    loss, source, classes = (
        (clip.loss, pictures, items.SUBJECTS) if kind == "clip" else (clap.loss, sounds, items.SOUNDS)
    )
    rng = np.random.default_rng(0)
    ids = tokenize(dual_encoder.tokenizer(kind), [source.caption(name, rng) for name in classes])
    x = rng.standard_normal((12, 64, 64, 3) if kind == "clip" else (12, 256, 64), np.float32)
    graph, params = shallow_params(kind)
    gradient = jit(jax.grad(lambda params: loss(nnx.merge(graph, params), {"x": x, "tokens": ids})))(params)
    assert not {path for path, value in nnx.to_flat_state(gradient) if not jnp.any(value[...])}


def test_the_statistics_of_clap_are_not_trained():
    _, params = shallow_params("clap")
    factors = jax.tree_util.tree_leaves_with_path(clap.learning_rate_factors(params))
    constant = [jax.tree_util.keystr(path) for path, factor in factors if factor == 0]
    assert {re.search("running_mean|running_var|$", path)[0] for path in constant} == {"running_mean", "running_var"}
