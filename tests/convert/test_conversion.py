"""Conversions: they hold the tensors of the source, errors name what is wrong, and they are complete or absent."""

import errno
import os
import pathlib
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from orbax.checkpoint import v1 as ocp

from convert import conversion, originals
from its_jax.checkpoints.format import FORMAT, WEIGHTS
from its_jax.checkpoints.reader import checkpoint_paths, open_arrays
from its_jax.errors import UserError
from its_jax.models.state_dict import to_state_dict
from its_jax.pretrained import load_model
from tests.helpers import model_folder
from tests.helpers.conversions import hashes, metadata
from tests.helpers.model_folder import edit, edit_json

ROOT = pathlib.Path(__file__).parents[2]
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def test_a_conversion_has_the_layout_of_flax_and_the_dtype_of_the_source(source, tmp_path):
    edit(source / VAE, lambda state: state.update({k: v.half() for k, v in state.items()}))
    out = conversion.convert(str(source), tmp_path / "out")
    unet = safetensors.torch.load_file(source / UNET)
    found = ocp.load(out / "unet" / WEIGHTS / "000")
    assert len(found) == len(unet)
    kernel = unet["down_blocks.0.resnets.0.conv1.weight"].permute(2, 3, 1, 0).numpy()
    np.testing.assert_array_equal(found["down_blocks.0.resnets.0.conv1.kernel"], kernel)
    assert {component: about["dtype"] for component, about in metadata(out)["parts"].items()} == {
        "text_encoder": "float32", "unet": "float32", "vae": "float16", "vocoder": "float32",
    }  # fmt: skip
    assert ocp.metadata(out / "vae" / WEIGHTS / "000").metadata["decoder.conv_in.bias"].dtype == jnp.float16
    for name in (
        "unet/config.json",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
        "model_index.json",
    ):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert not list(out.rglob("*.safetensors")) and not list(out.rglob("*.pt"))


def test_identity_depends_on_content_but_not_on_the_format_of_files(original, tmp_path):
    first = metadata(conversion.convert(str(original), tmp_path / "a"))
    model_folder.build(tmp_path / "bin", safe=False)
    same = metadata(conversion.convert(str(tmp_path / "bin"), tmp_path / "b"))
    assert (same["identity"], same["parts"]) == (first["identity"], first["parts"])
    model_folder.build(tmp_path / "other", seed=1, vocoder=False)
    other = metadata(conversion.convert(str(tmp_path / "other"), tmp_path / "c"))
    assert other["identity"] != first["identity"] and "vocoder" not in other["parts"]


def test_components_are_written_and_read_in_pieces(vae_only, twins, original_hashes, tmp_path):
    out = conversion.write(originals.gather("model", vae_only), tmp_path / "out", piece_bytes=5000)
    assert hashes(out)["vae"] == original_hashes["vae"]
    pieces = [open_arrays(path) for path in checkpoint_paths(out / "vae")]
    sizes = [sum(4 * array.size for array in arrays.values()) for arrays in pieces]
    assert len(sizes) > 5
    assert all(size <= 5000 or len(arrays) == 1 for arrays, size in zip(pieces, sizes, strict=True))
    found = to_state_dict(load_model(str(out), components=("vae",), dtype=jnp.float32).vae)
    for key, value in twins["vae"].state_dict().items():
        np.testing.assert_array_equal(found[key], value)


# Complete or absent


class Interrupted(originals.Original):
    """A model whose conversion is interrupted at its vocoder, when the checkpoints of the VAE are written."""

    def tensors(self, component):
        if component == "vocoder":
            raise KeyboardInterrupt
        return super().tensors(component)


@pytest.fixture
def two_components(source):
    """A copy of the model with VAE and vocoder."""
    for component in ("unet", "text_encoder"):
        shutil.rmtree(source / component)
    return source


def test_an_interrupted_conversion_leaves_nothing(two_components, tmp_path):
    original = originals.gather("model", two_components)
    out = tmp_path / "conversions" / "out"
    with pytest.raises(KeyboardInterrupt):
        conversion.write(Interrupted("model", original.weights, original.plain), out)
    assert not [path for path in out.parent.iterdir() if path.is_dir()]
    assert hashes(conversion.write(original, out)).keys() == {"vae", "vocoder"}


def test_a_killed_conversion_is_not_taken_for_a_complete_one(two_components, tmp_path):
    program = (
        "import os, sys\nfrom convert import conversion, originals\n"
        "class Killed(originals.Original):\n"
        "    def tensors(self, component):\n"
        "        return super().tensors(component) if component == 'vae' else os._exit(9)\n"
        "path, _ = originals.locate(sys.argv[1])\n"
        "original = originals.gather(sys.argv[1], path)\n"
        "conversion.write(Killed(original.name, original.weights, original.plain), sys.argv[2])"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", program, str(two_components), str(out)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert ended.returncode == 9, ended.stderr.decode()
    partial = tmp_path / ".out.partial"
    assert not out.exists() and (partial / "new" / "vae" / WEIGHTS).exists()
    conversion.convert(str(two_components), out)
    assert hashes(out).keys() == {"vae", "vocoder"} and not partial.exists()


def test_a_full_disk_is_an_error_of_one_line_and_leaves_nothing(vae_only, tmp_path):
    def save(path, arrays):
        raise ValueError(
            f'OUT_OF_RANGE: Error writing "{next(iter(arrays))}" in OCDBT database at local file "{path}": Failed '
            f'writing: "{path}": Failed to write 156810 bytes to file 29:\nNo space left on device [os_error_code=28]'
        )

    with pytest.raises(UserError, match="cannot be written .*No space left.*ITS_JAX_CACHE") as error:
        conversion.write(originals.gather("model", vae_only), tmp_path / "out", save=save)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_failed_conversion_keeps_the_previous_one(vae_only, tmp_path):
    out = conversion.convert(str(vae_only), tmp_path / "out")
    before = metadata(out)
    edit(vae_only / VAE, lambda state: state["decoder.conv_in.bias"].fill_(torch.nan))
    with pytest.raises(UserError, match="vae: tensor 'decoder.conv_in.bias' holds values that are not finite"):
        conversion.convert(str(vae_only), out)
    assert metadata(out) == before and not (tmp_path / ".out.partial").exists()
    edit(vae_only / VAE, lambda state: state["decoder.conv_in.bias"].fill_(1))
    assert metadata(conversion.convert(str(vae_only), out)) != before


def test_a_folder_that_is_not_a_conversion_is_not_overwritten(vae_only, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="out: exists and is not a conversion"):
        conversion.convert(str(vae_only), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").exists()


# Equal components


def test_equal_components_are_stored_once_and_survive_the_other_conversion(vae_only, tmp_path):
    first = conversion.convert(str(vae_only), tmp_path / "first")
    edit_json(vae_only / "vae/config.json", sample_size=999)
    second = conversion.convert(str(vae_only), tmp_path / "second")
    assert hashes(first) == hashes(second) and metadata(first)["identity"] != metadata(second)["identity"]
    stored = sorted(path for path in (first / "vae" / WEIGHTS).rglob("*") if path.is_file())
    assert stored and all(path.samefile(second / path.relative_to(first)) for path in stored)
    shutil.rmtree(first)
    assert load_model(str(second), components=("vae",), dtype=jnp.float32).vae


@pytest.mark.parametrize("reason", ["another VAE", "damaged", "no links"])
def test_components_that_cannot_be_shared_are_stored_again(reason, vae_only, tmp_path, monkeypatch):
    first = conversion.convert(str(vae_only), tmp_path / "first")
    before = {path.relative_to(first): path.read_bytes() for path in first.rglob("*") if path.is_file()}
    if reason == "another VAE":
        edit(vae_only / VAE, lambda state: state["decoder.conv_in.bias"].add_(1))
    elif reason == "damaged":
        files = (path for path in (first / "vae" / WEIGHTS).rglob("*") if path.is_file())
        largest = max(files, key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-1])
    else:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EXDEV, "other device")))
    second = conversion.convert(str(vae_only), tmp_path / "second")
    assert load_model(str(second), components=("vae",), dtype=jnp.float32).vae
    assert all(path.stat().st_nlink == 1 for path in second.rglob("*") if path.is_file())
    if reason != "damaged":
        assert all((first / name).read_bytes() == content for name, content in before.items())


# Errors


DAMAGED = {
    "missing tensor": (
        lambda f: edit(f / VAE, lambda s: s.pop("quant_conv.bias")),
        "vae: tensor 'quant_conv.bias' is missing",
    ),
    "extra tensor": (
        lambda f: edit(f / VAE, lambda s: s.update({"lora.up.weight": torch.ones(2)})),
        "vae: tensor 'lora.up.weight' has no place in the model",
    ),
    "misshapen tensor": (
        lambda f: edit(f / VAE, lambda s: s.update({"quant_conv.bias": torch.ones(3)})),
        r"vae: tensor 'quant_conv.bias' has shape \[3\], the config asks for \[8\]",
    ),
    "NaN": (
        lambda f: edit(f / VAE, lambda s: s["quant_conv.bias"][1:2].fill_(torch.nan)),
        "vae: tensor 'quant_conv.bias' holds values that are not finite",
    ),
    "integers": (
        lambda f: edit(f / VAE, lambda s: s.update({"quant_conv.bias": torch.ones(8, dtype=torch.int8)})),
        "vae: tensor 'quant_conv.bias' has dtype I8, expected one of",
    ),
    "truncated safetensors": (
        lambda f: (f / VAE).write_bytes((f / VAE).read_bytes()[:-9]),
        "vae/diffusion_pytorch_model.safetensors: truncated, or not a safetensors file",
    ),
    "something else under the name": (
        lambda f: (f / VAE).write_text("version https://git-lfs.github.com/spec/v1"),
        "vae/diffusion_pytorch_model.safetensors: truncated, or not a safetensors file",
    ),
    "no weights": (lambda f: (f / VAE).unlink(), "vae/ has no weights, such as vae/diffusion_pytorch_model"),
    "no config": (lambda f: (f / "vae/config.json").unlink(), "vae/config.json is missing"),
    "config not JSON": (
        lambda f: (f / "vae/config.json").write_text("{"),
        "vae/config.json: cannot be read as JSON",
    ),
    "other class": (
        lambda f: edit_json(f / "vae/config.json", _class_name="AutoencoderTiny"),
        "vae: the config is that of a AutoencoderTiny, only AutoencoderKL is supported",
    ),
    "unknown field": (
        lambda f: edit_json(f / "vae/config.json", temperature=2),
        "model: vae: VAEConfig: unknown field 'temperature'",
    ),
    "another model": (
        lambda f: (shutil.rmtree(f / "vae"), (f / "transformer").mkdir(), (f / "transformer/x").touch()),
        "not a model folder; expected text_encoder, unet, vae, voc",
    ),
    "empty": (
        lambda f: (shutil.rmtree(f), f.mkdir()),
        "an empty folder; expected text_encoder, unet, vae, voc",
    ),
    "missing": (lambda f: shutil.rmtree(f), "/model: no such folder"),
    "a file": (
        lambda f: (shutil.rmtree(f), f.touch()),
        "/model: a file; expected a model folder or a hub id, or a single file .safetensors or .ckpt",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_errors_in_the_source_are_one_line_and_nothing_is_written(kind, vae_only, tmp_path):
    damage, message = DAMAGED[kind]
    damage(vae_only)
    with pytest.raises(UserError, match=message) as error:
        conversion.convert(str(vae_only), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not [path for path in tmp_path.iterdir() if path != vae_only and path.is_dir()]


def test_the_command_converts_and_reports_errors_in_one_line(vae_only, tmp_path):
    def command(source):
        arguments = [f"--source={source}", f"--out={tmp_path / 'out'}"]
        return subprocess.run([sys.executable, "-m", "convert", *arguments], cwd=ROOT, capture_output=True, text=True)

    failed = command(tmp_path / "nowhere")
    assert failed.returncode == 2 and failed.stderr.splitlines()[-1].endswith("nowhere: no such folder")
    assert "Traceback" not in failed.stderr
    done = command(vae_only)
    assert done.returncode == 0, done.stderr
    assert metadata(tmp_path / "out")["format"] == FORMAT
