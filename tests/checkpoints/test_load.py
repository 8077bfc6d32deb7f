"""Loading: what comes out of a folder is what PyTorch makes of it, once converted, wherever it is placed."""

import errno
import hashlib
import json
import logging
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from convert import cache as conversions
from convert import conversion
from its_jax import pretrained
from its_jax.checkpoints import load
from its_jax.errors import UserError
from its_jax.models.clip_text import CLIPTextConfig
from its_jax.models.state_dict import to_state_dict
from its_jax.models.unet import UNetConfig
from its_jax.models.vae import VAEConfig
from its_jax.pipeline.placement import data_mesh
from its_jax.pretrained import load_model
from tests.helpers import model_folder
from tests.helpers.model_folder import edit, edit_json
from tests.helpers.torch_twins import assert_close, assert_equal, assert_rounded, jit, normal, torch_result

LATENT = (2, 4, 6, 4)


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A model folder, its PyTorch modules and its conversion."""
    folder = tmp_path_factory.mktemp("original")
    twins = model_folder.build(folder / "model")
    return folder / "model", twins, conversion.convert(str(folder / "model"), folder / "converted")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def source(original, tmp_path):
    return shutil.copytree(original[0], tmp_path / "model")


@pytest.fixture
def vae_only(source):
    for part in ("unet", "text_encoder", "vocoder"):
        shutil.rmtree(source / part)
    return source


@pytest.fixture
def converted(original, tmp_path):
    return shutil.copytree(original[2], tmp_path / "converted")


def inputs():
    t = np.array([10, 700])
    return normal(LATENT), t, normal((2, 77, model_folder.TEXT_WIDTH), seed=1)


def torch_noise(unet, x, t, text):
    return torch_result(lambda *a: unet(*a).sample, x, t, text)


# .bin files give the same tensors as safetensors, to the bit: tests/test_convert.py.
def test_all_parts_are_the_torch_twins(original, highest_precision):
    _, twins, converted = original
    model = load_model(str(converted), dtype=jnp.float32)
    ids = model.tokenizer(["a cat", "dogs"], padding="max_length", return_tensors="np")["input_ids"]
    assert ids.shape == (2, 77)
    x, t, text = inputs()
    expected = torch_result(lambda i: twins["text_encoder"](i).last_hidden_state, ids)
    assert_equal(jit(lambda m, i: m(i))(model.text_encoder, ids), np.moveaxis(expected, 1, -1))
    assert_equal(jit(lambda m, *a: m(*a))(model.unet, x, t, text), torch_noise(twins["unet"], x, t, text))
    assert_equal(jit(lambda m, z: m.decode(z))(model.vae, x), torch_result(lambda z: twins["vae"].decode(z).sample, x))
    mel = 5 * normal((2, 9, 12))
    with torch.no_grad():
        waveform = twins["vocoder"](torch.from_numpy(mel).mT)[:, 0].numpy()
    assert_equal(jit(lambda m, x: m(x))(model.vocoder, mel), waveform)
    assert model.schedule.steps_offset == 1 and model.vocabulary is None


def test_bfloat16(original):
    _, twins, converted = original
    model = load_model(str(converted), parts=("vae",), dtype="bfloat16")
    assert_rounded(model.vae, twins["vae"])
    z = normal(LATENT)
    found = jit(lambda m, z: m.decode(z))(model.vae, z)
    assert_close(found, torch_result(lambda z: twins["vae"].decode(z).sample, z))


def test_only_the_parts_that_are_asked_for_are_loaded(original):
    model = load_model(str(original[2]), parts=("vae",), dtype=jnp.float32)
    assert model.vae and not (model.unet or model.text_encoder or model.vocoder)
    assert model.tokenizer is None and model.schedule is None


def test_weights_are_replicated_on_the_mesh(original):
    devices = data_mesh()
    assert devices.axis_names == ("data",) and devices.size == jax.local_device_count() == 8
    assert devices.axis_types == (jax.sharding.AxisType.Auto,)
    replicated = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec())
    one = load_model(str(original[2]), parts=("unet",), dtype=jnp.float32)
    all_ = load_model(str(original[2]), parts=("unet",), dtype=jnp.float32, sharding=replicated)
    for a, b in zip(jax.tree.leaves(nnx.state(one.unet)), jax.tree.leaves(nnx.state(all_.unet)), strict=True):
        assert a.devices() == {jax.local_devices()[0]}
        assert b.sharding == replicated and len(b.addressable_shards) == 8
        for shard in b.addressable_shards:
            np.testing.assert_array_equal(a, shard.data)


def test_a_folder_is_converted_once(vae_only, cache, caplog):
    caplog.set_level(logging.INFO)
    first = load_model(str(vae_only), parts=("vae",), dtype=jnp.float32)
    (made,) = (path for path in cache.iterdir() if not path.name.startswith("."))
    assert sum(f"converting {vae_only} into {made}" in r.getMessage() for r in caplog.records) == 1
    caplog.clear()
    again = load_model(str(vae_only), parts=("vae",), dtype=jnp.float32)
    moved = vae_only.rename(vae_only.with_name("moved"))
    elsewhere = load_model(str(moved), parts=("vae",), dtype=jnp.float32)
    assert not [record for record in caplog.records if "converting" in record.getMessage()]
    assert first.identity == again.identity == elsewhere.identity
    direct = load_model(str(conversion.convert(str(moved), cache.parent / "out")), parts=("vae",), dtype=jnp.float32)
    assert direct.identity == first.identity


def test_a_file_is_hashed_again_only_when_it_has_changed(source, monkeypatch):
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, name: hashed.append(f.name) or digest(f, name))
    monkeypatch.setattr(conversions, "write", lambda *_, **__: None)
    key = conversions.converted(str(source))
    assert len(hashed) > 8 and str(source / "vae/config.json") in hashed
    hashed.clear()
    assert conversions.converted(str(source)) == key and not hashed
    os.utime(source / "vae/config.json", ns=(1, 1))
    assert conversions.converted(str(source)) == key and hashed == [str(source / "vae/config.json")]
    (source / "README.md").write_text("does not matter")
    assert conversions.converted(str(source)) == key


def test_a_copy_that_keeps_its_time_of_change_is_hashed_again(source, monkeypatch):
    monkeypatch.setattr(conversions, "write", lambda *_, **__: None)
    key, file = conversions.converted(str(source)), source / "vae/config.json"
    before = file.stat()
    file.write_text(file.read_text().replace("8", "9"))  # no byte more or less
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size and conversions.converted(str(source)) != key


def test_a_file_that_cannot_be_read_is_named(source, monkeypatch):
    def broken(file, name):
        raise OSError(errno.EIO, "Input/output error", file.name)

    monkeypatch.setattr(hashlib, "file_digest", broken)
    with pytest.raises(UserError, match=f"^{source}/.*: cannot be read .Input/output error"):
        load_model(str(source), dtype=jnp.float32)


def test_changed_content_is_converted_again(vae_only, cache):
    first = load_model(str(vae_only), parts=("vae",), dtype=jnp.float32)
    path = vae_only / "vae/diffusion_pytorch_model.safetensors"
    edit(path, lambda state: state["decoder.conv_in.bias"].add_(1))
    second = load_model(str(vae_only), parts=("vae",), dtype=jnp.float32)
    assert first.identity != second.identity and first.hashes["vae"] != second.hashes["vae"]
    before, after = (model.vae.decoder.conv_in.bias[...] for model in (first, second))
    np.testing.assert_array_equal(after, before + 1)


def test_an_interrupted_conversion_is_made_anew(vae_only, cache, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_identity", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_model(str(vae_only), parts=("vae",), dtype=jnp.float32)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert load_model(str(vae_only), parts=("vae",), dtype=jnp.float32).vae


def test_an_equal_vae_is_held_once(vae_only, original):
    # Fields that say nothing of the model differ between releases of diffusers.
    edit_json(vae_only / "vae/config.json", _diffusers_version="0.6.0", sample_size=999)
    image = load_model(str(original[2]), parts=("vae",), dtype=jnp.float32)
    audio = load_model(str(vae_only), parts=("vae",), dtype=jnp.float32, share=[image])
    assert image.hashes["vae"] == audio.hashes["vae"] and audio.vae is image.vae and audio.identity != image.identity
    edit_json(vae_only / "vae/config.json", scaling_factor=0.5)
    other = load_model(str(vae_only), parts=("vae",), dtype=jnp.float32, share=[image])
    assert image.hashes["vae"] == other.hashes["vae"] and other.vae is not image.vae


def test_an_equal_vae_is_stored_once_and_outlives_the_other(vae_only, tmp_path):
    first = conversion.convert(str(vae_only), tmp_path / "first")
    edit_json(vae_only / "vae/config.json", sample_size=999)
    second = conversion.convert(str(vae_only), tmp_path / "second")
    stored = sorted(path for path in (first / WEIGHTS).rglob("*") if path.is_file())
    assert stored and all(path.samefile(second / path.relative_to(first)) for path in stored)
    shutil.rmtree(first)
    assert load_model(str(second), parts=("vae",), dtype=jnp.float32).vae


@pytest.mark.parametrize("reason", ["another VAE", "damaged", "no links"])
def test_what_cannot_be_shared_is_stored_again(reason, vae_only, tmp_path, monkeypatch):
    first = conversion.convert(str(vae_only), tmp_path / "first")
    before = {path.relative_to(first): path.read_bytes() for path in first.rglob("*") if path.is_file()}
    if reason == "another VAE":
        path = vae_only / "vae/diffusion_pytorch_model.safetensors"
        edit(path, lambda state: state["decoder.conv_in.bias"].add_(1))
    elif reason == "damaged":
        truncate(largest(first / WEIGHTS))
    else:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EXDEV, "other device")))
    second = conversion.convert(str(vae_only), tmp_path / "second")
    assert load_model(str(second), parts=("vae",), dtype=jnp.float32).vae
    assert all(path.stat().st_nlink == 1 for path in second.rglob("*") if path.is_file())
    if reason != "damaged":
        assert all((first / name).read_bytes() == content for name, content in before.items())


def test_a_part_is_written_and_read_in_pieces(original, vae_only, tmp_path, monkeypatch):
    sizes = []
    save = conversion.ocp.save
    monkeypatch.setattr(conversion, "_PIECE", 5000)
    monkeypatch.setattr(
        conversion.ocp,
        "save",
        lambda path, piece: sizes.append([v.nbytes for v in piece.values()]) or save(path, piece),
    )
    out = conversion.convert(str(vae_only), tmp_path / "pieces" / "out")
    assert len(sizes) > 5 and all(sum(piece) <= 5000 or len(piece) == 1 for piece in sizes)
    model = load_model(str(out), parts=("vae",), dtype=jnp.float32)
    assert model.hashes["vae"] == load_model(str(original[2]), parts=("vae",), dtype=jnp.float32).hashes["vae"]
    for key, value in original[1]["vae"].state_dict().items():
        np.testing.assert_array_equal(to_state_dict(model.vae)[key], value)


def test_the_vocabulary_is_that_of_the_folder(vae_only):
    (vae_only / "vocabulary.json").write_text('["cat", "dog"]')
    assert load_model(str(vae_only), parts=("vae",), dtype=jnp.float32).vocabulary == {"cat", "dog"}


def test_embedded_models_are_the_packages_own(vae_only, monkeypatch, tmp_path):
    weights = tmp_path / "package" / "tiny" / "weights"
    weights.mkdir(parents=True)
    vae_only.rename(weights / "audio")
    monkeypatch.setattr(pretrained.importlib.resources, "files", lambda package: tmp_path / "package")
    model = load_model("tiny/audio", parts=("vae",), dtype=jnp.float32)
    assert model.source == "tiny/audio" and model.vae


WEIGHTS = "vae/weights"

SPOILT = {
    "file missing": (
        lambda f: (f / "unet/config.json").unlink(),
        "unet/config.json: missing from the converted model",
    ),
    "checkpoint truncated": (
        lambda f: truncate(largest(f / WEIGHTS)),
        "vae/weights/.* has .* bytes in place of .*convert again",
    ),
    "checkpoint of the right size": (
        lambda f: overwrite(largest(f / WEIGHTS)),
        "vae/weights: damaged; delete .*converted and convert again",
    ),
    "checkpoint without a readable file": (
        lambda f: [overwrite(path) for path in (f / WEIGHTS).rglob("*") if path.is_file()],
        "vae/weights: damaged; delete .*converted and convert again",
    ),
    "no list of files": (
        lambda f: edit_json(f / conversion.METADATA, files=None),
        "its_jax.json: damaged; delete .*converted and convert again",
    ),
    "other format": (
        lambda f: edit_json(f / conversion.METADATA, format=99),
        f"converted in format 99, not {conversion.FORMAT}; convert it again",
    ),
    "no metadata": (lambda f: (f / conversion.METADATA).write_text(""), "its_jax.json: cannot be read as JSON"),
    "no part": (
        lambda f: edit_json(f / conversion.METADATA, parts={"unet": {"sha256": ""}}),
        "has no vae; the parts of this model are unet",
    ),
    "config of another size": (
        lambda f: spoil_config(f, layers_per_block=2),
        "vae: tensor 'decoder.up_blocks.0.resnets.2.* is missing",
    ),
    "config of another width": (
        lambda f: spoil_config(f, norm_num_groups=2, block_out_channels=[4, 16]),
        r"vae: tensor '.*' has shape \[.*8.*\], the config asks for \[.*4.*\]",
    ),
    "latent channels": (
        lambda f: spoil_config(f, "unet", in_channels=9),
        "the vae's 4 channels; it takes 9 and gives 4",
    ),
}


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def overwrite(path):
    path.write_bytes(bytes(path.stat().st_size))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def spoil_config(folder, part="vae", **change):
    """A config that was edited after conversion, its size in the metadata as well."""
    edit_json(folder / part / "config.json", **change)
    files = json.loads((folder / conversion.METADATA).read_text())["files"]
    files[f"{part}/config.json"] = (folder / part / "config.json").stat().st_size
    edit_json(folder / conversion.METADATA, files=files)


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_conversion_is_named_in_one_line(kind, converted):
    spoil, message = SPOILT[kind]
    spoil(converted)
    with pytest.raises(UserError, match=message) as error:
        load_model(str(converted), parts=("unet", "vae"), dtype=jnp.float32)
    assert "\n" not in str(error.value)


def test_a_vocoder_that_is_not_there(tmp_path):
    model_folder.build(tmp_path / "silent", vocoder=False)
    with pytest.raises(UserError, match="silent: has no vocoder; the parts of this model are text_enc"):
        load_model(str(tmp_path / "silent"), dtype=jnp.float32)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("tokenizer", "tokenizer/ is missing or cannot be read"),
        ("scheduler", "scheduler/scheduler_config.json is missing"),
    ],
)
def test_what_goes_with_a_part_must_be_there(remove, message, source):
    shutil.rmtree(source / remove)
    with pytest.raises(UserError, match=message) as error:
        load_model(str(source), parts=("text_encoder", "unet"), dtype=jnp.float32)
    assert "\n" not in str(error.value)


def fitting(cls, **sizes):
    return SimpleNamespace(config=cls(**sizes))


def test_parts_that_do_not_fit_together_are_named(original):
    model = load_model(str(original[2]), parts=("text_encoder",), dtype=jnp.float32)
    with pytest.raises(UserError, match="the unet takes text of width 768, the text_encoder gives 24"):
        load._check_fit(replace(model, unet=fitting(UNetConfig, cross_attention_dim=768)))
    with pytest.raises(UserError, match="the tokenizer has 58 tokens, the text_encoder knows 20"):
        load._check_fit(replace(model, text_encoder=fitting(CLIPTextConfig, vocab_size=20)))
    with pytest.raises(UserError, match="the tokenizer gives up to 77 tokens, the text_encoder has 60 positions; set"):
        load._check_fit(replace(model, text_encoder=fitting(CLIPTextConfig, max_position_embeddings=60)))
    with pytest.raises(UserError, match="pictures of 3 channels; it takes 3 and gives 4"):
        load._check_fit(replace(model, vae=fitting(VAEConfig, out_channels=4)))


def test_a_misspelt_name_of_an_embedded_model_is_not_looked_for_on_the_hub():
    known = "tiny/image, tiny/audio, tiny/clip, tiny/clap, tiny/color"
    with pytest.raises(UserError, match=f"tiny/adio: no such model in the package; it has {known}"):
        load_model("tiny/adio", dtype=jnp.float32)


def test_a_vocabulary_that_is_no_list_is_named(source):
    (source / "vocabulary.json").write_text("castle dog")
    with pytest.raises(UserError, match="vocabulary.json: expected a JSON list of words"):
        load_model(str(source), parts=("vae",), dtype=jnp.float32)


def test_a_cache_that_cannot_be_written_is_named(vae_only, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="/file"):
        load_model(str(vae_only), parts=("vae",), dtype=jnp.float32)
