"""Conversion: names of any age, strictness, and that a conversion is whole or absent."""

import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import types

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from orbax.checkpoint import v1 as ocp

from convert import conversion, sources
from convert.names import canonical
from convert.tensors import Tensor, open_tensors
from its_jax.errors import UserError
from tests.helpers import model_folder
from tests.helpers.model_folder import edit, edit_json
from tests.helpers.torch_twins import normal

UNET = "unet/diffusion_pytorch_model.safetensors"
ROOT = pathlib.Path(__file__).parents[2]
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "model"
    model_folder.build(folder)
    return folder


@pytest.fixture
def source(original, tmp_path):
    """A copy of a model, to be spoilt."""
    return shutil.copytree(original, tmp_path / "model")


@pytest.fixture
def vae_only(source):
    for part in ("unet", "text_encoder", "vocoder"):
        shutil.rmtree(source / part)
    return source


def metadata(folder):
    return json.loads((folder / conversion.METADATA).read_text())


def lazy(**arrays):
    return {key.replace("__", "."): Tensor(str(a.dtype), lambda a=a: a) for key, a in arrays.items()}


def test_a_conversion_holds_the_flax_layout_in_the_dtype_of_the_source(source, tmp_path):
    edit(source / VAE, lambda state: state.update({k: v.half() for k, v in state.items()}))
    out = conversion.convert(str(source), tmp_path / "out")
    unet = safetensors.torch.load_file(source / UNET)
    found = ocp.load(out / "unet" / conversion.WEIGHTS / "000")
    assert len(found) == len(unet)
    kernel = unet["down_blocks.0.resnets.0.conv1.weight"].permute(2, 3, 1, 0).numpy()
    np.testing.assert_array_equal(found["down_blocks.0.resnets.0.conv1.kernel"], kernel)
    assert {part: about["dtype"] for part, about in metadata(out)["parts"].items()} == {
        "text_encoder": "float32", "unet": "float32", "vae": "float16", "vocoder": "float32",
    }  # fmt: skip
    assert ocp.metadata(out / "vae" / conversion.WEIGHTS / "000").metadata["decoder.conv_in.bias"].dtype == jnp.float16
    for name in (
        "unet/config.json",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
        "model_index.json",
    ):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert not list(out.rglob("*.safetensors")) and not list(out.rglob("*.pt"))


def test_what_identifies_a_model_is_its_content_not_its_file_format(original, tmp_path):
    first = metadata(conversion.convert(str(original), tmp_path / "a"))
    model_folder.build(tmp_path / "bin", safe=False)
    same = metadata(conversion.convert(str(tmp_path / "bin"), tmp_path / "b"))
    assert (same["identity"], same["parts"]) == (first["identity"], first["parts"])
    model_folder.build(tmp_path / "other", seed=1, vocoder=False)
    other = metadata(conversion.convert(str(tmp_path / "other"), tmp_path / "c"))
    assert other["identity"] != first["identity"] and "vocoder" not in other["parts"]


def test_bfloat16_tensors_are_read_from_both_formats(tmp_path):
    value = torch.randn(3, 2).bfloat16()
    safetensors.torch.save_file({"x": value}, tmp_path / "x.safetensors")
    torch.save({"x": value}, tmp_path / "x.bin")
    torch.save({"x": value}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("x.safetensors", "x.bin", "old.bin"):
        tensor = open_tensors(tmp_path / name)["x"]
        assert tensor.dtype == "bfloat16" and tensor.read().dtype == jnp.bfloat16
        np.testing.assert_array_equal(tensor.read().astype(np.float32), value.float().numpy())


def test_legacy_vae_attention_is_todays(vae_only, tmp_path):
    expected = metadata(conversion.convert(str(vae_only), tmp_path / "a"))["parts"]
    legacy = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def age(state):
        for key in [key for key in state if ".attentions.0.to_" in key]:
            today = next(name for name in legacy if name in key)
            value = state.pop(key)
            old = value[:, :, None, None].contiguous() if value.ndim == 2 else value
            state[key.replace(today, legacy[today])] = old

    edit(vae_only / VAE, age)
    assert "encoder.mid_block.attentions.0.query.weight" in open_tensors(vae_only / VAE)
    assert metadata(conversion.convert(str(vae_only), tmp_path / "b"))["parts"] == expected


def test_prefix_and_positions_of_older_text_encoders_are_dropped():
    x = np.zeros(2, np.float32)
    tensors = lazy(text_model__embeddings__position_ids=np.arange(2), text_model__final_layer_norm__bias=x)
    assert list(canonical(tensors)) == ["final_layer_norm.bias"]


@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm])
def test_weight_norm_of_either_age_is_merged(norm):
    twin = model_folder.small_vocoder()
    state = {key: Tensor("float32", value.numpy) for key, value in model_folder.weight_normed(twin, norm).items()}
    merged = canonical(state)
    assert merged.keys() == twin.state_dict().keys() != state.keys()
    for key, value in twin.state_dict().items():
        np.testing.assert_allclose(merged[key].read(), value, rtol=2e-6, atol=2e-7)


def test_one_tensor_under_two_names_is_refused():
    x = normal((2, 2))
    with pytest.raises(UserError, match="'a.attentions.0.query.weight' and 'a.attentions.0.to_q.weight'"):
        canonical(lazy(a__attentions__0__query__weight=x, a__attentions__0__to_q__weight=x))


def test_full_precision_safetensors_are_chosen_before_the_rest():
    names = ["vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors", "unet/config.json",
             "vae/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.non_ema.bin",
             "unet/diffusion_pytorch_model.fp16.bin", "text_encoder/config.json",
             "text_encoder/pytorch_model.bin", "text_encoder/model.safetensors",
             "safety_checker/model.safetensors", "tokenizer/vocab.json",
             "v1-5-pruned.safetensors", "README.md"]  # fmt: skip
    layout = sources.layout(names, source="hub")
    assert layout.weights == {
        "text_encoder": ("text_encoder/model.safetensors",),
        "unet": ("unet/diffusion_pytorch_model.fp16.bin",),
        "vae": ("vae/diffusion_pytorch_model.bin",),
    }
    configs = {f"{part}/config.json" for part in layout.weights}
    assert set(layout.plain) == configs | {"tokenizer/vocab.json"}


def test_of_a_hub_model_only_the_chosen_files_are_downloaded(vae_only, tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repository, *, allow_patterns):
        asked.extend(allow_patterns)
        return str(vae_only)

    remote = [*sources.file_names(vae_only), "vae/diffusion_pytorch_model.bin", "v1-5-pruned.ckpt"]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository: remote)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    out = conversion.convert("someone/model", tmp_path / "out")
    assert sorted(asked) == sources.file_names(vae_only)
    assert metadata(out)["source"] == "someone/model"


def test_of_ifs_second_stage_the_text_encoder_is_not_downloaded_again(monkeypatch):
    asked = []
    remote = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/spiece.model"]
    remote += [f"{part}/config.json" for part in ("text_encoder", "unet")]
    remote += ["text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository: remote)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repository, allow_patterns: asked.append(allow_patterns) or "."
    )
    sources.find("someone/stage-1")
    assert sorted(asked.pop()) == sorted(remote)
    remote.append("image_noising_scheduler/scheduler_config.json")
    sources.find("someone/stage-2")
    assert sorted(asked.pop()) == sorted(name for name in remote if "text_encoder" not in name and "tok" not in name)


def test_without_network_a_hub_model_of_before_is_used_and_that_is_said_once(vae_only, monkeypatch, caplog):
    def snapshot_download(repository, *, local_files_only=False, **_):
        assert local_files_only
        return str(vae_only)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert sources.find("someone/model") == sources.find("someone/model") == vae_only
    (record,) = caplog.records
    assert record.getMessage().startswith("someone/model: taken as downloaded before, for the hub does not answer (")


def test_a_gated_hub_model_asks_for_a_token(monkeypatch):
    def list_repo_files(repository):
        response = types.SimpleNamespace(headers={}, request=None, status_code=403, text="")
        raise huggingface_hub.errors.GatedRepoError("403 Client Error.\nAccess is restricted", response=response)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_repo_files)
    with pytest.raises(UserError, match="someone/gated: .*accept its licence.* give a token as HF_TOKEN"):
        sources.find("someone/gated")


def test_the_hub_s_own_news_are_kept_back():
    """In a process of its own: the library sets its logger when it is imported."""
    asks = """
import logging, sys
from its_jax.runtime import cli
logging.getLogger().setLevel(logging.INFO)
cli.silence_libraries()
import huggingface_hub.utils
huggingface_hub.utils.get_session()
clients = [name for name in ("httpx", "httpx2") if name in sys.modules]
news = [logging.getLogger(name).isEnabledFor(logging.INFO) for name in clients]
print(bool(clients), any(news), logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING))
"""
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


def test_an_unknown_hub_model_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="^someone/unknown-model: no such folder, nor to be had from") as error:
        sources.find("someone/unknown-model")
    assert "\n" not in str(error.value)


def test_a_killed_conversion_leaves_nothing_that_passes_for_whole(vae_only, tmp_path):
    script = (
        "import os, sys, convert\nfrom convert import conversion\n"
        "conversion._identity = lambda *_: os._exit(9)\n"  # when all checkpoints are written
        "conversion.convert(*sys.argv[1:])"
    )
    out = tmp_path / "out"
    ended = subprocess.run([sys.executable, "-c", script, str(vae_only), str(out)], cwd=ROOT, capture_output=True)
    assert ended.returncode == 9, ended.stderr.decode()
    partial = tmp_path / ".out.partial"
    assert not out.exists() and (partial / "new" / "vae" / conversion.WEIGHTS).exists()
    conversion.convert(str(vae_only), out)
    assert metadata(out)["parts"].keys() == {"vae"} and not partial.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(vae_only, tmp_path, monkeypatch):
    def full(path, arrays):
        raise ValueError("OUT_OF_RANGE: Error writing: No space left on device")

    monkeypatch.setattr(conversion.ocp, "save", full)
    with pytest.raises(UserError, match="cannot be written .*No space left.*ITS_JAX_CACHE"):
        conversion.convert(str(vae_only), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_conversion_leaves_the_one_before(vae_only, tmp_path, monkeypatch):
    out = conversion.convert(str(vae_only), tmp_path / "out")
    before = metadata(out)
    edit(vae_only / VAE, lambda state: state["decoder.conv_in.bias"].fill_(torch.nan))
    with pytest.raises(UserError, match="vae: tensor 'decoder.conv_in.bias' holds values that are not finite"):
        conversion.convert(str(vae_only), out)
    assert metadata(out) == before and not (tmp_path / ".out.partial").exists()
    edit(vae_only / VAE, lambda state: state["decoder.conv_in.bias"].fill_(1))
    assert metadata(conversion.convert(str(vae_only), out)) != before


def test_a_folder_of_something_else_is_not_overwritten(vae_only, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="out: exists and is not a conversion"):
        conversion.convert(str(vae_only), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").exists()


SPOILT = {
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
    "config is no JSON": (
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


@pytest.mark.parametrize("kind", SPOILT)
def test_bad_input_is_named_in_one_line_and_nothing_is_written(kind, vae_only, tmp_path):
    spoil, message = SPOILT[kind]
    spoil(vae_only)
    with pytest.raises(UserError, match=message) as error:
        conversion.convert(str(vae_only), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not [path for path in tmp_path.iterdir() if path != vae_only and path.is_dir()]


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("content", ["truncated", "hostile", "no state dict", "text", "other text", "empty"])
def test_bad_torch_files_are_refused(content, tmp_path, capsys):
    path = tmp_path / "vocoder.pt"
    torch.save({"x": Hostile()} if content == "hostile" else {"x": torch.ones(99)}, path)
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif content == "text":
        path.write_text("not weights")
    elif content == "other text":  # which are instructions that fail in another way
        path.write_text("hello\nworld")
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "no state dict":
        torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match="vocoder.pt: ") as error:
        open_tensors(path)
    assert "\n" not in str(error.value) and "executed" not in capsys.readouterr().out
    if content == "hostile":
        assert "refused, for it is a program: reading it would call" in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_torch_files_are_read_or_named(zipped, tmp_path):
    """Bytes of a pickle are instructions: those that a fault makes of them may fail in any way."""
    path, rng = tmp_path / "vocoder.pt", np.random.default_rng(0)
    torch.save({f"a.{i}": torch.ones(3) for i in range(4)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(len(damaged), size=3)] = rng.integers(256, size=3)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(UserError):
            open_tensors(path)


def test_torch_files_without_torch_say_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="needs PyTorch: pip install torch"):
        open_tensors(tmp_path / "vocoder.pt")


def test_command(vae_only, tmp_path):
    def command(source):
        arguments = [f"--source={source}", f"--out={tmp_path / 'out'}"]
        return subprocess.run([sys.executable, "-m", "convert", *arguments], cwd=ROOT, capture_output=True, text=True)

    failed = command(tmp_path / "nowhere")
    assert failed.returncode == 2 and failed.stderr.splitlines()[-1].endswith("nowhere: no such folder")
    assert "Traceback" not in failed.stderr
    done = command(vae_only)
    assert done.returncode == 0, done.stderr
    assert metadata(tmp_path / "out")["format"] == conversion.FORMAT
