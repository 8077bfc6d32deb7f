"""Components that were not made for each other are reported."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from its_jax.checkpoints import load
from its_jax.checkpoints.compatibility import check_compatibility
from its_jax.errors import UserError
from its_jax.models.clip_text import CLIPTextConfig
from its_jax.models.unet import UNetConfig
from its_jax.models.vae import VAEConfig


@pytest.fixture(scope="module")
def model(converted):
    return load.abstract_model(converted, "my/model", components=("text_encoder",), dtype="float32")


@pytest.mark.parametrize(
    ("component", "config", "message"),
    [
        (
            "unet",
            UNetConfig(cross_attention_dim=768),
            "my/model: the unet takes text of width 768, the text_encoder gives 24",
        ),
        (
            "text_encoder",
            CLIPTextConfig(vocab_size=20),
            "my/model: the tokenizer has 58 tokens, the text_encoder knows 20",
        ),
        (
            "text_encoder",
            CLIPTextConfig(max_position_embeddings=60),
            "the tokenizer gives up to 77 tokens, the text_encoder has 60 positions; set model_max_length",
        ),
        ("vae", VAEConfig(out_channels=4), "images of 3 channels; it takes 3 and gives 4"),
    ],
)
def test_components_that_do_not_fit_are_named(component, config, message, model):
    with pytest.raises(UserError, match=message):
        check_compatibility(replace(model, **{component: SimpleNamespace(config=config)}))


def test_components_that_fit_are_accepted(model):
    check_compatibility(model)
