"""`--check`: the results of every component equal PyTorch's, and differences are reported."""

import logging
import os
import pathlib
import subprocess
import sys

import pytest
import safetensors.torch
import torch

import convert
from convert import check, conversion
from its_jax.errors import UserError
from tests.helpers import model_folder
from tests.helpers.conversions import single_file_state

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}


def test_all_components_are_compared(original, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out = conversion.convert(str(original), tmp_path / "out")
    caplog.clear()
    check.check(str(original), out)
    lines = [record.getMessage() for record in caplog.records if "differs from PyTorch's" in record.getMessage()]
    assert [line.split(" differs")[0].strip() for line in lines] == [
        "text_encoder", "unet", "vae, encoding", "vae, decoding", "vocoder",
    ]  # fmt: skip


def test_results_that_differ_are_named(vae_only, tmp_path):
    out = conversion.convert(str(vae_only), tmp_path / "out")
    file = vae_only / "vae" / "diffusion_pytorch_model.safetensors"
    model_folder.edit(file, lambda state: state["decoder.conv_out.weight"].mul_(1.001))
    with pytest.raises(UserError, match="out: vae, decoding: results differ from PyTorch's by more than 0.0001"):
        check.check(str(vae_only), out)


def test_the_command_checks_a_single_file_with_a_lora(original, twins, tmp_path):
    safetensors.torch.save_file(single_file_state({"unet": twins["unet"]}), tmp_path / "tuned.safetensors")
    lora = {"unet.mid_block.attentions.0.proj_out.lora_A.weight": torch.randn(2, 16),
            "unet.mid_block.attentions.0.proj_out.lora_B.weight": torch.randn(16, 2)}  # fmt: skip
    safetensors.torch.save_file(lora, tmp_path / "lora.safetensors")
    flags = {"source": "tuned.safetensors", "out": "out", "config_from": original, "lora": "lora.safetensors@0.5"}
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    command = [sys.executable, "-m", "convert", "--check", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("unet             differs from PyTorch's by") == 1


def test_without_diffusers_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "convert.check")
    monkeypatch.delattr(convert, "check")
    with pytest.raises(UserError, match=r"--check needs diffusers; pip install 'its_jax\[convert\]'"):
        from convert import check as _  # noqa: F401
