"""Sharded and single files: whatever the layout, the tensors come out the same, and what is wrong is named."""

import json
import shutil

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from convert import cache as conversions
from convert import conversion, single_file, sources
from its_jax.errors import UserError
from its_jax.pretrained import load_model
from tests.helpers import model_folder
from tests.helpers.torch_twins import read

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.text_model.",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A model folder, its PyTorch modules and the hashes of its converted parts."""
    folder = tmp_path_factory.mktemp("original")
    twins = model_folder.build(folder / "model", vocoder=False)
    return folder / "model", twins, hashes(conversion.convert(str(folder / "model"), folder / "converted"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path / "cache"))


def hashes(folder):
    parts = json.loads((folder / conversion.METADATA).read_text())["parts"]
    return {part: about["sha256"] for part, about in parts.items()}


# Sharded files


@pytest.fixture
def sharded(original, tmp_path):
    """A copy of the model whose UNet is sharded."""
    folder = shutil.copytree(original[0], tmp_path / "model")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    original[1]["unet"].save_pretrained(folder / "unet", max_shard_size="40KB")
    assert len(list((folder / "unet").glob("*-of-*"))) > 2
    return folder


INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


def test_shards_are_the_whole(original, sharded, tmp_path):
    assert hashes(conversion.convert(str(sharded), tmp_path / "out")) == original[2]


def test_sharded_bin_files_and_text_encoders(original, tmp_path):
    folder = shutil.copytree(original[0], tmp_path / "model")
    for part in ("vae", "text_encoder"):
        next((folder / part).glob("*.safetensors")).unlink()
    original[1]["vae"].save_pretrained(folder / "vae", max_shard_size="40KB", safe_serialization=False)
    original[1]["text_encoder"].save_pretrained(folder / "text_encoder", max_shard_size="5KB")
    assert (folder / "vae/diffusion_pytorch_model.bin.index.json").exists()
    assert (folder / "text_encoder/model.safetensors.index.json").exists()
    assert hashes(conversion.convert(str(folder), tmp_path / "out")) == original[2]


@pytest.mark.parametrize(
    "index, shard",
    [
        ("model.safetensors.index.json", "model-0000{}-of-00002.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model-0000{}-of-00002.bin"),
        ("model.fp16.safetensors.index.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model-0000{}-of-00002.fp16.safetensors"),
        ("diffusion_pytorch_model.fp16.bin.index.json", "diffusion_pytorch_model.fp16-0000{}-of-00002.bin"),
    ],
)
def test_names_of_shards(index, shard):
    shards = [f"unet/{shard.format(i)}" for i in (1, 2)]
    others = ["unet/other-00001-of-00002.safetensors", "unet/model.non_ema-00001-of-00002.safetensors"]
    layout = sources.layout(["unet/config.json", f"unet/{index}", *shards, *others], source="hub")
    assert layout.weights == {"unet": (f"unet/{index}", *shards)}
    assert set(shards) < set(layout.names)


def test_full_precision_shards_come_before_a_whole_of_half():
    names = ["unet/config.json", "unet/model.safetensors.index.json", "unet/model-00001-of-00001.safetensors"]
    layout = sources.layout([*names, "unet/model.fp16.safetensors"], source="hub")
    assert layout.weights == {"unet": tuple(names[1:])}


def test_a_changed_shard_is_another_model(sharded):
    first = conversions.converted(str(sharded))
    shard = next((sharded / "unet").glob("*-00002-of-*"))
    model_folder.edit(shard, lambda state: next(iter(state.values())).add_(1))
    assert conversions.converted(str(sharded)) != first


def edit_index(folder, change):
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


SPOILT_SHARDS = {
    "shard missing": (
        lambda f: next((f / "unet").glob("*-00002-of-*")).unlink(),
        "index.json: its shard diffusion_pytorch_model-00002-of-.* is missing beside it",
    ),
    "shard elsewhere": (
        lambda f: edit_index(f, lambda places: places.update({"conv_in.bias": "../vae/x.safetensors"})),
        "index.json: its shard ../vae/x.safetensors is missing beside it",
    ),
    "tensor not in its shard": (
        lambda f: edit_index(f, lambda places: places.update({"more": places["conv_in.bias"]})),
        "index.json: tensor 'more' is not in diffusion_pytorch_model-.*, where it should be",
    ),
    "tensor not in the index": (
        lambda f: edit_index(f, lambda places: places.pop("conv_in.bias")),
        "index.json: says nothing of tensor 'conv_in.bias', which diffusion_pytorch_model-.* holds",
    ),
    "no index": (lambda f: (f / INDEX).write_text('{"weight_map": [1]}'), "index.json: expected an index"),
    "no JSON": (lambda f: (f / INDEX).write_text("{"), "index.json: cannot be read as JSON"),
}


@pytest.mark.parametrize("kind", SPOILT_SHARDS)
def test_spoilt_shards_are_named_in_one_line(kind, sharded, tmp_path):
    spoil, message = SPOILT_SHARDS[kind]
    spoil(sharded)
    with pytest.raises(UserError, match=message) as error:
        conversion.convert(str(sharded), tmp_path / "out")
    assert "\n" not in str(error.value)


# Single files


def old_state(twins):
    """The modules' tensors in the old naming, with what training leaves beside them."""
    state = {}
    for part, twin in twins.items():
        for today, old in single_file.old_names(part, twin.state_dict()).items():
            value = twin.state_dict()[today].clone()
            if ".attn_1." in old and value.ndim == 2:  # convolutions, then
                value = value[:, :, None, None]
            state[PREFIXES[part] + old] = value.contiguous()
    leftovers = ["model_ema.decay", "betas", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef2", "logvar",
                 "first_stage_model.loss.logvar", "cond_stage_model.logit_scale"]  # fmt: skip
    state.update({key: torch.ones(3) for key in leftovers})
    if "text_encoder" in twins:
        state[PREFIXES["text_encoder"] + "embeddings.position_ids"] = torch.arange(77)[None]
    return state


@pytest.fixture
def single(original, tmp_path):
    path = tmp_path / "tuned.safetensors"
    safetensors.torch.save_file(old_state(original[1]), path)
    return path


def test_old_names_of_all_tensors_are_those_that_diffusers_expects():
    """All of Stable Diffusion 1.5's, and by what diffusers makes of them rather than by our own rule."""
    for part, theirs in (("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)):
        names = read("shapes", f"sd15.{part}")
        old = single_file.old_names(part, names)
        assert len(set(old.values())) == len(names)
        state = {PREFIXES[part] + old[name]: torch.full((1, 1), float(i)) for i, name in enumerate(names)}
        found = theirs(state, config=read("configs", f"sd15.{part}"))
        assert {key: int(value) for key, value in found.items()} == {name: i for i, name in enumerate(names)}


def test_some_old_names_are_well_known():
    unet = single_file.old_names("unet", read("shapes", "sd15.unet"))
    assert unet["down_blocks.0.downsamplers.0.conv.weight"] == "input_blocks.3.0.op.weight"
    assert unet["down_blocks.2.attentions.1.norm.weight"] == "input_blocks.8.1.norm.weight"
    assert unet["mid_block.resnets.1.time_emb_proj.bias"] == "middle_block.2.emb_layers.1.bias"
    assert unet["up_blocks.0.upsamplers.0.conv.bias"] == "output_blocks.2.1.conv.bias"
    assert unet["up_blocks.1.upsamplers.0.conv.bias"] == "output_blocks.5.2.conv.bias"
    vae = single_file.old_names("vae", read("shapes", "sd15.vae"))
    assert vae["decoder.up_blocks.3.resnets.0.conv_shortcut.weight"] == "decoder.up.0.block.0.nin_shortcut.weight"


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_single_file_is_the_model_in_a_folder(kind, original, single, tmp_path):
    source = single
    if kind == "ckpt":
        source = tmp_path / "tuned.ckpt"
        torch.save({"epoch": 3, "global_step": 7, "state_dict": safetensors.torch.load_file(single)}, source)
    out = conversion.convert(str(source), tmp_path / "out", config_from=str(original[0]))
    assert hashes(out) == original[2]
    assert (out / "tokenizer/merges.txt").read_bytes() == (original[0] / "tokenizer/merges.txt").read_bytes()


def test_a_single_file_of_half_precision_without_vae(original, tmp_path):
    twins = {part: twin for part, twin in original[1].items() if part != "vae"}
    state = {key: value.half() if value.is_floating_point() else value for key, value in old_state(twins).items()}
    safetensors.torch.save_file(state, tmp_path / "pruned.safetensors")
    out = conversion.convert(str(tmp_path / "pruned.safetensors"), tmp_path / "out", config_from=str(original[0]))
    parts = json.loads((out / conversion.METADATA).read_text())["parts"]
    assert {part: about["dtype"] for part, about in parts.items()} == {"text_encoder": "float16", "unet": "float16"}


def test_a_single_file_is_loaded_with_configs_from_the_hub(original, single, monkeypatch):
    asked = []

    def snapshot_download(repository, *, allow_patterns):
        asked.extend([repository, *allow_patterns])
        return str(original[0])

    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository: sources.file_names(original[0]))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = load_model(str(single), parts=("text_encoder", "vae"), dtype=jnp.float32)
    assert asked[0] == "stable-diffusion-v1-5/stable-diffusion-v1-5" and "unet/config.json" in asked
    assert not [name for name in asked if name.endswith((".safetensors", ".bin"))]
    bias = original[1]["vae"].state_dict()["decoder.up_blocks.0.upsamplers.0.conv.bias"]
    np.testing.assert_array_equal(model.vae.decoder.up_blocks[0].upsamplers[0].conv.bias[...], bias)


def test_without_network_a_single_file_asks_for_configs(single):
    with pytest.raises(UserError, match="tuned.safetensors: a single file has no configs .*--config_from=FOLDER"):
        conversions.converted(str(single))


def add(name, shape=(2,)):
    return lambda state: state.update({name: torch.ones(shape)})


SPOILT_SINGLE = {
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
        "no checkpoint of Stable Diffusion 1.x, whose tensors are cond_.*; .* a LoRA by --lora",
    ),
}


@pytest.mark.parametrize("kind", SPOILT_SINGLE)
def test_a_spoilt_single_file_is_named_in_one_line(kind, original, single, tmp_path):
    spoil, message = SPOILT_SINGLE[kind]
    model_folder.edit(single, spoil)
    with pytest.raises(UserError, match=message) as error:
        conversion.convert(str(single), tmp_path / "out", config_from=str(original[0]))
    assert "\n" not in str(error.value)


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def test_a_hostile_checkpoint_is_refused_and_does_not_run(original, tmp_path, capsys):
    torch.save({"state_dict": {"model.diffusion_model.x": torch.ones(1)}, "callbacks": Hostile()}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="x.ckpt: refused, for it is a program"):
        conversion.convert(str(tmp_path / "x.ckpt"), tmp_path / "out", config_from=str(original[0]))
    assert "executed" not in capsys.readouterr().out


def test_configs_are_for_single_files_and_must_be_there(original, single, tmp_path):
    with pytest.raises(UserError, match="model: a folder, which has configs of its own; config_from is for single"):
        conversion.convert(str(original[0]), tmp_path / "out", config_from=str(original[0]))
    with pytest.raises(UserError, match="nowhere at all: no such folder"):
        conversion.convert(str(single), tmp_path / "out", config_from="nowhere at all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: text_encoder/config.json is missing"):
        conversion.convert(str(single), tmp_path / "out", config_from=str(tmp_path / "empty"))
