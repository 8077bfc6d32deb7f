"""`CLIPModel` and `ClapModel` against PyTorch twins of transformers, through the names of `convert`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from convert.names import canonical
from convert.tensors import Tensor
from its_jax.errors import UserError
from its_jax.models.clap import ClapConfig, ClapModel
from its_jax.models.clip import CLIPConfig, CLIPModel
from its_jax.models.state_dict import abstract_arrays, load_state_dict, torch_shapes
from tests.helpers.random_weights import randomize
from tests.helpers.torch_twins import TOLERANCE, normal, read

TEXT = dict(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=20)  # fmt: skip
VISION = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=24,
              patch_size=8)  # fmt: skip
CLIP = {
    "OpenAI's, the end of a text is its highest token": (TEXT | {"eos_token_id": 2}, VISION),
    "the end of a text has an id, gelu": (
        TEXT | {"eos_token_id": 7, "hidden_act": "gelu"},
        VISION | {"hidden_act": "gelu", "patch_size": 6, "layer_norm_eps": 1e-3},
    ),
}
ROBERTA = dict(vocab_size=99, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
               max_position_embeddings=20)  # fmt: skip
SWIN = dict(spec_size=64, num_mel_bins=16, patch_size=2, patch_stride=[2, 2], window_size=4, depths=[2, 2, 1],
            num_attention_heads=[2, 4, 8], patch_embeds_hidden_size=8, hidden_size=32)  # fmt: skip
CLAP = {
    "three stages": SWIN,
    "the last stage is one window": SWIN | {"window_size": 8, "depths": [2, 2, 2]},
    "one segment": SWIN | {"num_mel_bins": 64, "mlp_ratio": 2.0},
}


def clip_twin(name):
    text, vision = CLIP[name]
    return randomize(
        transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10))
    )


def clap_twin(name):
    config = transformers.ClapConfig(
        text_config=ROBERTA | {"projection_dim": 12},
        audio_config=CLAP[name] | {"projection_dim": 12},
        projection_dim=12,
    )
    return randomize(transformers.ClapModel(config))


def converted(model, config, twin):
    """Returns our model with the weights of a PyTorch model."""
    tensors = {key: Tensor("float32", value.numpy) for key, value in twin.state_dict().items()}
    tensors = {key: tensor.read() for key, tensor in canonical(tensors).items()}
    return load_state_dict(abstract_arrays(model, config), tensors)


def assert_directions(found, expected):
    """Asserts that vectors of length 1 are equal, and that they differ from each other by more than the tolerance."""
    expected = (expected / expected.norm(dim=-1, keepdim=True)).numpy()
    differences = np.abs(expected[:, None] - expected).max(axis=-1)
    assert differences[~np.eye(len(differences), dtype=bool)].min() > 50 * TOLERANCE
    assert found.dtype == jnp.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def padded():
    """Returns texts of 3, 9 and 12 tokens with an end token, 7, and a token with the highest id."""
    ids = np.random.default_rng(0).integers(10, 90, (3, 12))
    for row, length in enumerate((3, 9, 12)):
        ids[row, length - 1 :] = 7
        ids[row, length - 1] = 7
        ids[row, length - 2] = 95 + row
    return ids


@pytest.mark.parametrize("name", CLIP)
def test_clip_equals_the_pytorch_twin(name, padded, highest_precision):
    twin = clip_twin(name)
    model = converted(CLIPModel, CLIPConfig.from_dict(twin.config.to_dict()), twin)
    x = normal((3, 24, 24, 3))
    with torch.no_grad():
        text = twin.get_text_features(torch.from_numpy(padded)).pooler_output
        image = twin.get_image_features(torch.from_numpy(x).permute(0, 3, 1, 2)).pooler_output
    assert_directions(jax.jit(lambda model, ids: model.embed_text(ids))(model, padded), text)
    assert_directions(jax.jit(lambda model, x: model.embed_image(x))(model, x), image)


@pytest.mark.parametrize("name", CLAP)
@pytest.mark.parametrize("missing", [0, 3])
def test_clap_embeds_audio_like_the_pytorch_twin(name, missing, highest_precision):
    """Includes spectrograms with too few frames, which are interpolated."""
    twin = clap_twin(name)
    config = ClapConfig.from_dict(twin.config.to_dict())
    model = converted(ClapModel, config, twin)
    log_mel = normal((3, config.audio_config.frames - missing, config.audio_config.num_mel_bins))
    with torch.no_grad():
        expected = twin.get_audio_features(torch.from_numpy(log_mel[:, None])).pooler_output
    assert_directions(jax.jit(lambda model, x: model.embed_audio(x))(model, log_mel), expected)


def test_clap_embeds_texts_like_the_pytorch_twin(highest_precision):
    twin = clap_twin("three stages")
    model = converted(ClapModel, ClapConfig.from_dict(twin.config.to_dict()), twin)
    ids = np.random.default_rng(0).integers(2, 99, (3, 12))
    for row, length in enumerate((3, 9, 12)):
        ids[row, length:] = 1
    with torch.no_grad():
        mask = torch.from_numpy(ids != 1).long()
        expected = twin.get_text_features(torch.from_numpy(ids), attention_mask=mask).pooler_output
    embed = jax.jit(lambda model, ids: model.embed_text(ids))
    assert_directions(embed(model, ids), expected)
    np.testing.assert_allclose(embed(model, ids[:1, :3]), embed(model, ids)[:1], atol=TOLERANCE)


@pytest.mark.parametrize(
    "model, config, name",
    [
        (CLIPModel, CLIPConfig, "clip_vit_base_patch16"),
        (ClapModel, ClapConfig, "clap_htsat_unfused"),
        (ClapModel, ClapConfig, "clap_htsat_unfused.expanded"),
    ],
)
def test_the_full_size_model_has_the_published_parameters(model, config, name):
    abstract = nnx.eval_shape(lambda: model(config.from_dict(read("configs", name)), rngs=nnx.Rngs(0)))
    published = read("shapes", name.removesuffix(".expanded"))
    tensors = {key: Tensor("float32", None) for key in published}
    assert torch_shapes(abstract) == {key: tuple(published[key]) for key in canonical(tensors)}


@pytest.mark.parametrize(
    "tower, change, named",
    [
        ("vision_config", {"hidden_act": "relu"}, "hidden_act"),
        ("vision_config", {"num_channels": 1}, "num_channels"),
        ("vision_config", {"rope_theta": 1.0}, "rope_theta"),
        ("text_config", {"num_attention_heads": 5}, "num_attention_heads"),
    ],
)
def test_an_unsupported_clip_config_is_refused(tower, change, named):
    raw = read("configs", "clip_vit_base_patch16")
    with pytest.raises(UserError, match=named):
        CLIPConfig.from_dict(raw | {tower: raw[tower] | change})


@pytest.mark.parametrize(
    "tower, change, named",
    [
        ("audio_config", {"enable_fusion": True}, "enable_fusion"),
        ("audio_config", {"patch_stride": [2, 2]}, "patch_stride"),
        ("audio_config", {"window_size": 7}, "spec_size"),
        ("audio_config", {"num_attention_heads": [4, 8, 16]}, "num_attention_heads"),
        ("audio_config", {"hidden_size": 512}, "hidden_size"),
        ("text_config", {"type_vocab_size": 2}, "type_vocab_size"),
        ("text_config", {"num_attention_heads": 5}, "num_attention_heads"),
    ],
)
def test_an_unsupported_clap_config_is_refused(tower, change, named):
    raw = read("configs", "clap_htsat_unfused")
    with pytest.raises(UserError, match=named):
        ClapConfig.from_dict(raw | {tower: raw[tower] | change})


def test_a_config_without_a_tower_is_refused():
    for config, name, tower in ((CLIPConfig, "clip_vit_base_patch16", "vision_config"),
                                (ClapConfig, "clap_htsat_unfused", "audio_config")):  # fmt: skip
        raw = read("configs", name)
        del raw[tower]
        with pytest.raises(UserError, match=tower):
            config.from_dict(raw)
