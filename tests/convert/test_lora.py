"""LoRAs: all forms of naming give the same change, which equals PyTorch's layers side by side."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from convert import cache as conversion_cache
from convert import conversion
from convert.lora import Lora, merged
from convert.tensors import Tensor
from its_jax.errors import UserError
from tests.helpers import model_folder
from tests.helpers.conversions import metadata

RANK = 2
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
TEXT = "encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def unet():
    return model_folder.small_unet()


def lazy(module, dtype=torch.float32):
    state = {key: value.to(dtype).numpy() for key, value in module.state_dict().items()}
    return {key: Tensor(str(value.dtype), lambda value=value: value) for key, value in state.items()}


def pair(out, into, kernel=(), seed=0):
    """Draws low-rank factors, up and down."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(out, RANK, *(1 for _ in kernel), generator=generator),
        torch.randn(RANK, into, *kernel, generator=generator),
    )


def saved(path, state, **kw):
    safetensors.torch.save_file({key: torch.as_tensor(value) for key, value in state.items()}, path, **kw)
    return path


# The names of the pairs for `QUERY` and `OUT` in each form, and of alpha if the form has one.
FORMS = {
    "peft": ("unet.{}.lora_B.weight", "unet.{}.lora_A.weight", None, QUERY, OUT),
    "diffusers 0.20": ("unet.{}.lora.up.weight", "unet.{}.lora.down.weight", None, QUERY, OUT),
    "diffusers 0.12": (
        "{}_lora.up.weight", "{}_lora.down.weight", None,
        QUERY.replace("to_q", "processor.to_q"), OUT.replace("to_out.0", "processor.to_out"),
    ),
    "diffusers 0.15": (
        "unet.{}_lora.up.weight", "unet.{}_lora.down.weight", None,
        QUERY.replace("to_q", "processor.to_q"), OUT.replace("to_out.0", "processor.to_out"),
    ),
    "kohya": (
        "lora_unet_{}.lora_up.weight", "lora_unet_{}.lora_down.weight", "lora_unet_{}.alpha",
        "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
    ),
    "kohya, old numbers": (
        "lora_unet_{}.lora_up.weight", "lora_unet_{}.lora_down.weight", "lora_unet_{}.alpha",
        "input_blocks_1_1_transformer_blocks_0_attn1_to_q", "input_blocks_1_1_transformer_blocks_0_attn1_to_out_0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_change_the_same_tensors(form, unet, tmp_path):
    up_name, down_name, alpha_name, query, out = FORMS[form]
    state, expected = {}, {key: value.clone() for key, value in unet.state_dict().items()}
    for seed, (today, theirs) in enumerate(((QUERY, query), (OUT, out))):
        up, down = pair(8, 8, seed=seed)
        state |= {up_name.format(theirs): up, down_name.format(theirs): down}
        if alpha_name:
            state[alpha_name.format(theirs)] = torch.tensor(1.0)
        expected[f"{today}.weight"] += 0.7 * (1 / RANK if alpha_name else 1) * up @ down
    found = merged(lazy(unet), "unet", [Lora(saved(tmp_path / "lora.safetensors", state), 0.7)])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key].read(), value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.{}.weight",
    ],
)
def test_text_encoders_are_changed(name, tmp_path):
    text_encoder = model_folder.small_text_encoder(30)
    up, down = pair(24, 24)
    path = saved(tmp_path / "lora.safetensors", {name.format("up"): up, name.format("down"): down})
    found = merged(lazy(text_encoder), "text_encoder", [Lora(path)])
    before = text_encoder.state_dict()[f"{TEXT}.weight"]
    np.testing.assert_allclose(found[f"{TEXT}.weight"].read(), before + up @ down, rtol=1e-6, atol=1e-6)
    assert not merged(lazy(model_folder.small_unet()), "unet", [Lora(path)]).keys() - {*lazy(model_folder.small_unet())}


def test_merged_convolutions_equal_pytorch_layers_side_by_side(unet, tmp_path):
    module = unet.down_blocks[0].resnets[0].conv1
    up, down = pair(8, 8, (3, 3))
    middle = torch.randn(RANK, RANK, 3, 3, generator=torch.Generator().manual_seed(5))
    short = down[:, :, :1, :1].contiguous()
    x, conv = torch.randn(1, 8, 6, 6), torch.nn.functional.conv2d
    branches = {
        "": ({"up": up, "down": down}, conv(conv(x, down, padding=1), up)),
        "tucker": ({"up": up, "mid": middle, "down": short}, conv(conv(conv(x, short), middle, padding=1), up)),
    }
    for roles, branch in branches.values():
        # In the old numbering, the layers of a resnet have other names.
        state = {f"lora_unet_input_blocks_1_0_in_layers_2.lora_{role}.weight": v for role, v in roles.items()}
        found = merged(lazy(unet), "unet", [Lora(saved(tmp_path / "lora.safetensors", state))])
        weight = torch.from_numpy(found["down_blocks.0.resnets.0.conv1.weight"].read())
        with torch.no_grad():
            expected = module(x) + branch
            torch.testing.assert_close(conv(x, weight, module.bias, padding=1), expected, rtol=1e-4, atol=1e-4)


def test_a_linear_pair_fits_a_1x1_convolution(unet, tmp_path):
    stem = "unet.mid_block.attentions.0.proj_in"
    up, down = pair(16, 16)
    state = {f"{stem}.lora_B.weight": up, f"{stem}.lora_A.weight": down}
    found = merged(lazy(unet), "unet", [Lora(saved(tmp_path / "lora.safetensors", state))])
    expected = unet.state_dict()["mid_block.attentions.0.proj_in.weight"] + (up @ down)[:, :, None, None]
    np.testing.assert_allclose(found["mid_block.attentions.0.proj_in.weight"].read(), expected, rtol=1e-6, atol=1e-6)


def test_several_loras_are_added_in_float32_and_rounded_once(unet, tmp_path):
    up, down = pair(8, 8)
    state = {f"unet.{QUERY}.lora_B.weight": up, f"unet.{QUERY}.lora_A.weight": down}
    path = saved(tmp_path / "lora.safetensors", state)
    found = merged(lazy(unet, torch.float16), "unet", [Lora(path, 0.3), Lora(path, -0.1)])[f"{QUERY}.weight"]
    before = unet.state_dict()[f"{QUERY}.weight"].half().float()
    expected = (before + np.float32(0.3) * up @ down - np.float32(0.1) * up @ down).half()
    assert found.dtype == "float16" and found.read().dtype == np.float16
    np.testing.assert_allclose(found.read(), expected, rtol=1e-3)


def test_alpha_in_the_metadata_of_diffusers_is_used(unet, tmp_path):
    up, down = pair(8, 8)
    state = {f"unet.{QUERY}.lora_B.weight": up, f"unet.{QUERY}.lora_A.weight": down}

    def change(**settings):
        metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": v for key, v in settings.items()})}
        path = saved(tmp_path / "lora.safetensors", state, metadata=metadata)
        after = merged(lazy(unet), "unet", [Lora(path)])[f"{QUERY}.weight"].read()
        return after - unet.state_dict()[f"{QUERY}.weight"].numpy()

    np.testing.assert_allclose(change(lora_alpha=8, r=2), 4 * change(), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="was trained with use_dora, which is not supported"):
        change(use_dora=True)


WRONG_LORAS = {
    "no place": (
        {"unet.nowhere.lora_A.weight": (2, 8), "unet.nowhere.lora_B.weight": (8, 2)},
        "lora.safetensors: tensor 'unet.nowhere.lora_A.weight' does not fit any tensor of the unet",
    ),
    "half a pair": (
        {f"unet.{QUERY}.lora_A.weight": (2, 8)},
        "lora.safetensors: tensor 'unet.*lora_A.weight' has no counterpart 'up'",
    ),
    "one place under two prefixes": (
        {f"unet.{QUERY}.lora_A.weight": (2, 8), f"{QUERY}.lora_A.weight": (2, 8)},
        "tensor '.*lora_A.weight' and another have the same place in the model",
    ),
    "one place under two numbers": (
        {
            f"lora_unet_{name}_transformer_blocks_0_attn1_to_q.lora_{role}.weight": shape
            for name in ("input_blocks_1_1", "down_blocks_0_attentions_0")
            for role, shape in (("down", (2, 8)), ("up", (8, 2)))
        },
        "tensor 'lora_unet_.*' and another have the same place in the model",
    ),
    "other sizes": (
        {f"unet.{QUERY}.lora_A.weight": (2, 9), f"unet.{QUERY}.lora_B.weight": (8, 2)},
        r"does not fit: \[8, 2\] and \[2, 9\] for \[8, 8\]",
    ),
    "no rank": (
        {f"unet.{QUERY}.lora_A.weight": (0, 8), f"unet.{QUERY}.lora_B.weight": (8, 0)},
        r"does not fit: \[8, 0\] and \[0, 8\] for \[8, 8\]",
    ),
    "two alphas": (
        {
            f"lora_unet_{QUERY.replace('.', '_')}.{role}": shape
            for role, shape in (("lora_down.weight", (2, 8)), ("lora_up.weight", (8, 2)), ("alpha", (2,)))
        },
        "its alpha has 2 numbers, and must be one",
    ),
    "nothing": ({}, "lora.safetensors: holds no tensors"),
    "other kind": (
        {f"lora_unet_{QUERY.replace('.', '_')}.hada_w1_a": (2, 9)},
        "hada_w1_a' does not belong to a LoRA for Stable Diffusion 1.x in the form of diffusers or kohya",
    ),
    "SDXL": (
        {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (2, 9)},
        "lora_te2_.*' does not belong to a LoRA for Stable Diffusion 1.x",
    ),
    "component missing": (
        {f"text_encoder.{TEXT}.lora_A.weight": (2, 24), f"text_encoder.{TEXT}.lora_B.weight": (24, 2)},
        "is for the text_encoder, which .*model does not have",
    ),
}


@pytest.mark.parametrize("kind", WRONG_LORAS)
def test_errors_in_loras_are_one_line(kind, unet, tmp_path):
    shapes, message = WRONG_LORAS[kind]
    unet.save_pretrained(tmp_path / "model/unet")
    path = saved(tmp_path / "lora.safetensors", {key: torch.ones(shape) for key, shape in shapes.items()})
    with pytest.raises(UserError, match=message) as error:
        conversion.convert(str(tmp_path / "model"), tmp_path / "out", loras=[str(path)])
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("value", "scale"), [(np.nan, 1), (1.0, 1e40)])
def test_a_change_that_is_not_finite_names_the_lora(value, scale, unet, tmp_path):
    state = {f"unet.{QUERY}.lora_B.weight": torch.full((8, 2), value), f"unet.{QUERY}.lora_A.weight": torch.ones(2, 8)}
    found = merged(lazy(unet), "unet", [Lora(saved(tmp_path / "lora.safetensors", state), scale)])
    with pytest.raises(UserError, match=r"lora.safetensors: tensor .* at a scale of \S+ is not finite"):
        found[f"{QUERY}.weight"].read()


def test_alpha_may_be_a_vector_of_length_one(unet, tmp_path):
    up, down = pair(8, 8)
    stem, read = f"lora_unet_{QUERY.replace('.', '_')}", []
    for alpha in (torch.tensor(3.0), torch.tensor([3])):
        state = {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down, f"{stem}.alpha": alpha}
        found = merged(lazy(unet), "unet", [Lora(saved(tmp_path / "lora.safetensors", state))])
        read.append(found[f"{QUERY}.weight"].read())
    np.testing.assert_array_equal(*read)


def test_a_lora_with_unsupported_precision_is_an_error(unet, tmp_path):
    up, down = (a.to(torch.float8_e4m3fn) for a in pair(8, 8))
    state = {f"unet.{QUERY}.lora_B.weight": up, f"unet.{QUERY}.lora_A.weight": down}
    with pytest.raises(UserError, match="lora.safetensors: tensor .* is F8_E4M3; a LoRA must be float64, float32"):
        merged(lazy(unet), "unet", [Lora(saved(tmp_path / "lora.safetensors", state))])


def test_loras_are_given_in_the_source(original, tmp_path):
    up, down = pair(8, 8)
    state = {f"unet.{QUERY}.lora_B.weight": up, f"unet.{QUERY}.lora_A.weight": down}
    path = saved(tmp_path / "a+b@1.safetensors", state)
    path = path.rename(tmp_path / "style.safetensors")
    plain, half, whole = (conversion_cache.converted(f"{original}{end}") for end in ("", f"+{path}@0.5", f"+{path}"))
    found = [metadata(folder) for folder in (plain, half, whole)]
    assert len({about["identity"] for about in found}) == 3
    assert len({about["parts"]["vae"]["sha256"] for about in found}) == 1
    (lora,) = found[1]["loras"]
    assert lora["file"] == str(path) and lora["scale"] == 0.5 and len(lora["sha256"]) == 64
    assert found[0]["loras"] == [] and found[2]["loras"][0]["scale"] == 1
    assert conversion_cache.list_components(f"{original}+{path}") == conversion_cache.list_components(str(original))
    direct = conversion.convert(str(original), tmp_path / "out", loras=[f"{path}@0.5"])
    assert metadata(direct)["identity"] == found[1]["identity"]
    with pytest.raises(UserError, match="is converted already; a LoRA is merged when the original is converted"):
        conversion_cache.converted(f"{plain}+{path}")


def test_paths_may_contain_plus_and_at(tmp_path):
    path = saved(tmp_path / "a@2.safetensors", {"x": torch.ones(1)})
    assert Lora.parse(str(path)) == Lora(path, 1) and Lora.parse(f"{path}@2") == Lora(path, 2)
    folder = tmp_path / "one+two"
    model_folder.small_unet().save_pretrained(folder / "unet")
    assert conversion_cache.list_components(str(folder)) == ["unet"]
    with pytest.raises(UserError, match="'x' does not belong to a LoRA"):
        conversion_cache.list_components(f"{folder}+{path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.safetensors@1", "nowhere.safetensors: no such LoRA file"),
        ("{}@strong", "the scale of a LoRA must be a number, as in lora.safetensors@0.8"),
        ("{}@nan", "must be a number"),
    ],
)
def test_errors_in_the_name_or_scale_of_a_lora_are_reported(text, message, tmp_path):
    path = saved(tmp_path / "lora.safetensors", {"x": torch.ones(1)})
    with pytest.raises(UserError, match=message):
        Lora.parse(text.format(path))
