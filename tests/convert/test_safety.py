"""The safety checker as a scorer, against diffusers' own."""

import types

import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

from convert import safety
from its_jax.errors import UserError


@pytest.fixture(scope="module")
def checker(tmp_path_factory):
    """A small one with random weights and thresholds."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = size | {"image_size": 32, "patch_size": 8}
    model = StableDiffusionSafetyChecker(
        transformers.CLIPConfig(vision_config=vision, text_config=size, projection_dim=16)
    )
    for parameter in (model.concept_embeds, model.special_care_embeds):
        parameter.data = torch.randn(parameter.shape)
    model.concept_embeds_weights.data = torch.full((17,), 0.4)
    model.special_care_embeds_weights.data = torch.full((3,), 0.2)
    folder = tmp_path_factory.mktemp("checker")
    model.save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    return folder, model.eval()


def test_images_that_the_checker_withholds_score_below_zero(checker):
    folder, model = checker
    processor = transformers.CLIPImageProcessor.from_pretrained(folder)
    safe, rng, seen = safety.Safe(str(folder)), np.random.default_rng(0), set()
    for scale in np.linspace(0.05, 1, 12):
        image = np.clip(rng.random((40, 48, 3)) * scale + rng.random(3) * (1 - scale), 0, 1)
        (score,) = safe([types.SimpleNamespace(images={"image": image})])["safe"]
        pixels = processor(images=np.rint(image * 255).astype(np.uint8), return_tensors="pt").pixel_values
        _, (withheld,) = model(clip_input=pixels, images=[image.copy()])
        if abs(score) > 0.1:  # diffusers rounds to a thousandth.
            assert (score < 0) == withheld
            seen.add(withheld)
    assert seen


def test_a_missing_checker_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match="the safety checker is not available"):
        safety.Safe(str(tmp_path / "nowhere")).margin(np.zeros((8, 8, 3)))
