"""Single files of Stable Diffusion 1.x: they give the same model as a folder, and errors name the tensor."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from convert import cache as conversion_cache
from convert import conversion, originals, single_file
from convert.hub import file_names
from its_jax.errors import UserError
from its_jax.pretrained import load_model
from tests.helpers import model_folder
from tests.helpers.conversions import PREFIXES, hashes, metadata, single_file_state
from tests.helpers.torch_twins import read


@pytest.fixture
def single(twins, tmp_path):
    """A single file of the model in the folder `original`."""
    path = tmp_path / "tuned.safetensors"
    safetensors.torch.save_file(single_file_state(twins), path)
    return path


def test_diffusers_maps_all_old_names_back_to_current_ones():
    """Checks all tensors of Stable Diffusion 1.5 with the code of diffusers instead of our own rule."""
    for component, theirs in (("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)):
        names = read("shapes", f"sd15.{component}")
        old = single_file.old_names(component, names)
        assert len(set(old.values())) == len(names)
        state = {PREFIXES[component] + old[name]: torch.full((1, 1), float(i)) for i, name in enumerate(names)}
        found = theirs(state, config=read("configs", f"sd15.{component}"))
        assert {key: int(value) for key, value in found.items()} == {name: i for i, name in enumerate(names)}


def test_well_known_old_names_are_correct():
    unet = single_file.old_names("unet", read("shapes", "sd15.unet"))
    assert unet["down_blocks.0.downsamplers.0.conv.weight"] == "input_blocks.3.0.op.weight"
    assert unet["down_blocks.2.attentions.1.norm.weight"] == "input_blocks.8.1.norm.weight"
    assert unet["mid_block.resnets.1.time_emb_proj.bias"] == "middle_block.2.emb_layers.1.bias"
    assert unet["up_blocks.0.upsamplers.0.conv.bias"] == "output_blocks.2.1.conv.bias"
    assert unet["up_blocks.1.upsamplers.0.conv.bias"] == "output_blocks.5.2.conv.bias"
    vae = single_file.old_names("vae", read("shapes", "sd15.vae"))
    assert vae["decoder.up_blocks.3.resnets.0.conv_shortcut.weight"] == "decoder.up.0.block.0.nin_shortcut.weight"


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_single_file_gives_the_same_model_as_a_folder(kind, original, original_hashes, single, tmp_path):
    source = single
    if kind == "ckpt":
        source = tmp_path / "tuned.ckpt"
        torch.save({"epoch": 3, "global_step": 7, "state_dict": safetensors.torch.load_file(single)}, source)
    out = conversion.convert(str(source), tmp_path / "out", config_from=str(original))
    assert hashes(out) == {component: original_hashes[component] for component in PREFIXES}
    assert (out / "tokenizer/merges.txt").read_bytes() == (original / "tokenizer/merges.txt").read_bytes()


def test_a_single_file_may_be_in_half_precision_and_lack_the_vae(original, twins, tmp_path):
    state = single_file_state({component: twin for component, twin in twins.items() if component != "vae"})
    state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    safetensors.torch.save_file(state, tmp_path / "pruned.safetensors")
    out = conversion.convert(str(tmp_path / "pruned.safetensors"), tmp_path / "out", config_from=str(original))
    dtypes = {component: about["dtype"] for component, about in metadata(out)["parts"].items()}
    assert dtypes == {"text_encoder": "float16", "unet": "float16"}


def test_configs_of_a_single_file_come_from_the_hub(original, twins, single, tmp_path):
    requested = []

    def snapshot_download(repository, *, allow_patterns):
        requested.extend([repository, *allow_patterns])
        return str(original)

    hub = types.SimpleNamespace(list_repo_files=lambda _: file_names(original), snapshot_download=snapshot_download)
    out = conversion.write(originals.gather(str(single), single, hub=hub), tmp_path / "out")
    assert requested[0] == "stable-diffusion-v1-5/stable-diffusion-v1-5" and "unet/config.json" in requested
    assert not [name for name in requested if name.endswith((".safetensors", ".bin"))]
    model = load_model(str(out), components=("text_encoder", "vae"), dtype=jnp.float32)
    bias = twins["vae"].state_dict()["decoder.up_blocks.0.upsamplers.0.conv.bias"]
    np.testing.assert_array_equal(model.vae.decoder.up_blocks[0].upsamplers[0].conv.bias[...], bias)


def test_without_a_network_the_error_for_a_single_file_suggests_config_from(single):
    with pytest.raises(UserError, match="tuned.safetensors: a single file has no configs .*--config_from=FOLDER"):
        conversion_cache.converted(str(single))


def add(name, shape=(2,)):
    return lambda state: state.update({name: torch.ones(shape)})


WRONG_FILES = {
    "SDXL": (add("conditioner.embedders.0.x"), "a checkpoint of Stable Diffusion XL; only those of .* 1.x"),
    "SD 2": (add("cond_stage_model.model.positional_embedding"), "a checkpoint of Stable Diffusion 2; only"),
    "unknown tensor": (add("control_model.input.weight"), "tensor 'control_model.input.weight' has no place"),
    "unknown tensor in the UNet": (
        add("model.diffusion_model.label_emb.weight"),
        "unet: tensor 'label_emb.weight' has no place in the model",
    ),
    "missing tensor": (
        lambda state: state.pop("first_stage_model.decoder.up.1.block.0.norm1.bias"),
        "vae: tensor 'decoder.up_blocks.0.resnets.0.norm1.bias' is missing",
    ),
    "inpainting": (
        add("model.diffusion_model.input_blocks.0.0.weight", (8, 9, 3, 3)),
        r"unet: tensor 'conv_in.weight' has shape \[8, 9, 3, 3\], the config asks for \[8, 4, 3, 3\]",
    ),
    "something else": (
        lambda state: (state.clear(), state.update({"lora_unet_x.lora_up.weight": torch.ones(2, 2)})),
        "not a checkpoint of Stable Diffusion 1.x, whose tensors are cond_.*; .* a LoRA by --lora",
    ),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_errors_in_single_files_are_one_line(kind, original, single, tmp_path):
    change, message = WRONG_FILES[kind]
    model_folder.edit(single, change)
    with pytest.raises(UserError, match=message) as error:
        conversion.convert(str(single), tmp_path / "out", config_from=str(original))
    assert "\n" not in str(error.value)


def test_config_from_must_exist_and_is_for_single_files_only(original, single, tmp_path):
    with pytest.raises(UserError, match="model: a folder, which has configs of its own; config_from is for single"):
        conversion.convert(str(original), tmp_path / "out", config_from=str(original))
    with pytest.raises(UserError, match="nowhere at all: no such folder"):
        conversion.convert(str(single), tmp_path / "out", config_from="nowhere at all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: text_encoder/config.json is missing"):
        conversion.convert(str(single), tmp_path / "out", config_from=str(tmp_path / "empty"))
