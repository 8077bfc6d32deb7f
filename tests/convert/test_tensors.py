"""Weight files: all formats give the same tensors, and damaged or dangerous files are refused in one line."""

import contextlib
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

from convert import conversion
from convert.tensors import open_tensors
from its_jax.errors import UserError
from tests.helpers.conversions import hashes

INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def sharded(source, twins):
    """A copy of the model whose UNet is sharded."""
    (source / "unet/diffusion_pytorch_model.safetensors").unlink()
    twins["unet"].save_pretrained(source / "unet", max_shard_size="40KB")
    assert len(list((source / "unet").glob("*-of-*"))) > 2
    return source


def test_bfloat16_tensors_are_read_from_all_formats(tmp_path):
    value = torch.randn(3, 2).bfloat16()
    safetensors.torch.save_file({"x": value}, tmp_path / "x.safetensors")
    torch.save({"x": value}, tmp_path / "x.bin")
    torch.save({"x": value}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("x.safetensors", "x.bin", "old.bin"):
        tensor = open_tensors(tmp_path / name)["x"]
        assert tensor.dtype == "bfloat16" and tensor.read().dtype == jnp.bfloat16
        np.testing.assert_array_equal(tensor.read().astype(np.float32), value.float().numpy())


def test_shards_give_the_same_tensors_as_one_file(original, sharded):
    expected = open_tensors(original / "unet/diffusion_pytorch_model.safetensors")
    found = open_tensors(sharded / INDEX)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key].read(), tensor.read())


def test_sharded_bin_files_and_text_encoders_are_converted(source, twins, original_hashes, tmp_path):
    for component in ("vae", "text_encoder"):
        next((source / component).glob("*.safetensors")).unlink()
    twins["vae"].save_pretrained(source / "vae", max_shard_size="40KB", safe_serialization=False)
    twins["text_encoder"].save_pretrained(source / "text_encoder", max_shard_size="5KB")
    assert (source / "vae/diffusion_pytorch_model.bin.index.json").exists()
    assert (source / "text_encoder/model.safetensors.index.json").exists()
    assert hashes(conversion.convert(str(source), tmp_path / "out")) == original_hashes


def edit_index(folder, change):
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


DAMAGED_SHARDS = {
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
        "index.json: does not list tensor 'conv_in.bias', which diffusion_pytorch_model-.* contains",
    ),
    "not an index": (lambda f: (f / INDEX).write_text('{"weight_map": [1]}'), "index.json: expected an index"),
    "not JSON": (lambda f: (f / INDEX).write_text("{"), "index.json: cannot be read as JSON"),
}


@pytest.mark.parametrize("kind", DAMAGED_SHARDS)
def test_errors_in_sharded_files_are_one_line(kind, sharded):
    damage, message = DAMAGED_SHARDS[kind]
    damage(sharded)
    with pytest.raises(UserError, match=message) as error:
        open_tensors(sharded / INDEX)
    assert "\n" not in str(error.value)


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("content", ["truncated", "hostile", "no state dict", "text", "other text", "empty"])
def test_bad_torch_files_are_refused_in_one_line(content, tmp_path, capsys):
    path = tmp_path / "vocoder.pt"
    torch.save({"x": Hostile()} if content == "hostile" else {"x": torch.ones(99)}, path)
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif content == "text":
        path.write_text("not weights")
    elif content == "other text":  # these are instructions that fail in another way
        path.write_text("hello\nworld")
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "no state dict":
        torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match="vocoder.pt: ") as error:
        open_tensors(path)
    assert "\n" not in str(error.value) and "executed" not in capsys.readouterr().out
    if content == "hostile":
        assert "refused, because it is a program: reading it would call" in str(error.value)


def test_a_hostile_object_beside_the_state_dict_is_not_executed(tmp_path, capsys):
    torch.save({"state_dict": {"model.diffusion_model.x": torch.ones(1)}, "callbacks": Hostile()}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="x.ckpt: refused, because it is a program"):
        open_tensors(tmp_path / "x.ckpt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_torch_files_are_read_or_reported(zipped, tmp_path):
    """The bytes of a pickle are instructions, which may fail in any way if they are damaged."""
    path, rng = tmp_path / "vocoder.pt", np.random.default_rng(0)
    torch.save({f"a.{i}": torch.ones(3) for i in range(4)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(len(damaged), size=3)] = rng.integers(256, size=3)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(UserError):
            open_tensors(path)


def test_torch_files_without_pytorch_name_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs PyTorch; pip install 'its_jax\[convert\]'"):
        open_tensors(tmp_path / "vocoder.pt")
