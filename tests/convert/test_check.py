"""`--check`: every part's result is PyTorch's, and what differs is told."""

import logging
import os
import pathlib
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from test_layouts import old_state

import convert
from convert import check, conversion
from its_jax.errors import UserError
from tests.helpers import model_folder

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "model"
    return folder, model_folder.build(folder)


def test_all_parts_are_compared(original, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out = conversion.convert(str(original[0]), tmp_path / "out")
    caplog.clear()
    check.check(str(original[0]), out)
    told = [record.getMessage() for record in caplog.records if "differs from PyTorch's" in record.getMessage()]
    assert [line.split(" differs")[0].strip() for line in told] == [
        "text_encoder", "unet", "vae, encoding", "vae, decoding", "vocoder",
    ]  # fmt: skip


def test_what_differs_is_named(original, tmp_path):
    vae = tmp_path / "model" / "vae"
    original[1]["vae"].save_pretrained(vae)
    out = conversion.convert(str(vae.parent), tmp_path / "out")
    file = vae / "diffusion_pytorch_model.safetensors"
    model_folder.edit(file, lambda state: state["decoder.conv_out.weight"].mul_(1.001))
    with pytest.raises(UserError, match="out: vae, decoding: results differ from PyTorch's by more than 0.0001"):
        check.check(str(vae.parent), out)


def test_the_command_converts_a_single_file_with_a_lora_and_checks_it(original, tmp_path):
    safetensors.torch.save_file(old_state({"unet": original[1]["unet"]}), tmp_path / "tuned.safetensors")
    lora = {"unet.mid_block.attentions.0.proj_out.lora_A.weight": torch.randn(2, 16),
            "unet.mid_block.attentions.0.proj_out.lora_B.weight": torch.randn(16, 2)}  # fmt: skip
    safetensors.torch.save_file(lora, tmp_path / "lora.safetensors")
    flags = {"source": "tuned.safetensors", "out": "out", "config_from": original[0], "lora": "lora.safetensors@0.5"}
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    command = [sys.executable, "-m", "convert", "--check", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("unet             differs from PyTorch's by") == 1


def test_without_diffusers_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "convert.check")
    monkeypatch.delattr(convert, "check")
    with pytest.raises(UserError, match=r"--check needs diffusers: pip install 'its_jax\[convert\]'"):
        from convert import check as _  # noqa: F401
