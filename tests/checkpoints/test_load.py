"""Loading converted models: components equal their PyTorch twins, and damaged folders are reported in one line."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from its_jax.checkpoints import load
from its_jax.checkpoints.format import FORMAT, METADATA
from its_jax.errors import UserError
from its_jax.pipeline.placement import data_mesh
from tests.helpers import model_folder
from tests.helpers.model_folder import edit_json
from tests.helpers.torch_twins import assert_close, assert_equal, assert_rounded, jit, normal, torch_result

LATENT = (2, 4, 6, 4)
WEIGHTS = "vae/weights"


@pytest.fixture
def damaged(converted, tmp_path):
    """A copy of the converted model, which a test may damage."""
    return shutil.copytree(converted, tmp_path / "converted")


def load_components(folder, *components, dtype=jnp.float32, **options):
    model = load.abstract_model(folder, str(folder), components=components, dtype=dtype)
    return load.restore_weights(model, **options)


def test_all_components_equal_their_torch_twins(converted, twins, highest_precision):
    model = load_components(converted, "text_encoder", "unet", "vae", "vocoder")
    ids = model.tokenizer(["a cat", "dogs"], padding="max_length", return_tensors="np")["input_ids"]
    assert ids.shape == (2, 77)
    expected = torch_result(lambda i: twins["text_encoder"](i).last_hidden_state, ids)
    assert_equal(jit(lambda m, i: m(i))(model.text_encoder, ids), np.moveaxis(expected, 1, -1))
    x, t, text = normal(LATENT), np.array([10, 700]), normal((2, 77, model_folder.TEXT_WIDTH), seed=1)
    expected = torch_result(lambda *a: twins["unet"](*a).sample, x, t, text)
    assert_equal(jit(lambda m, *a: m(*a))(model.unet, x, t, text), expected)
    assert_equal(jit(lambda m, z: m.decode(z))(model.vae, x), torch_result(lambda z: twins["vae"].decode(z).sample, x))
    mel = 5 * normal((2, 9, 12))
    with torch.no_grad():
        waveform = twins["vocoder"](torch.from_numpy(mel).mT)[:, 0].numpy()
    assert_equal(jit(lambda m, x: m(x))(model.vocoder, mel), waveform)
    assert model.schedule.steps_offset == 1 and model.vocabulary is None


def test_weights_are_loaded_in_bfloat16(converted, twins):
    model = load_components(converted, "vae", dtype="bfloat16")
    assert_rounded(model.vae, twins["vae"])
    z = normal(LATENT)
    found = jit(lambda m, z: m.decode(z))(model.vae, z)
    assert_close(found, torch_result(lambda z: twins["vae"].decode(z).sample, z))


def test_only_the_requested_components_are_loaded(converted):
    model = load_components(converted, "vae")
    assert model.vae and not (model.unet or model.text_encoder or model.vocoder)
    assert model.tokenizer is None and model.schedule is None


def test_weights_are_replicated_on_the_mesh(converted):
    devices = data_mesh()
    assert devices.axis_names == ("data",) and devices.size == jax.local_device_count() == 8
    assert devices.axis_types == (jax.sharding.AxisType.Auto,)
    replicated = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec())
    single = load_components(converted, "unet")
    everywhere = load_components(converted, "unet", sharding=replicated)
    states = (jax.tree.leaves(nnx.state(model.unet)) for model in (single, everywhere))
    for a, b in zip(*states, strict=True):
        assert a.devices() == {jax.local_devices()[0]}
        assert b.sharding == replicated and len(b.addressable_shards) == 8
        for shard in b.addressable_shards:
            np.testing.assert_array_equal(a, shard.data)


def change_config(folder, component="vae", **change):
    """Edits a config after conversion, and its size in the metadata."""
    edit_json(folder / component / "config.json", **change)
    files = json.loads((folder / METADATA).read_text())["files"]
    files[f"{component}/config.json"] = (folder / component / "config.json").stat().st_size
    edit_json(folder / METADATA, files=files)


def test_equal_components_are_in_memory_once(converted, damaged):
    # Fields that do not affect the model differ between releases of diffusers.
    change_config(damaged, _diffusers_version="0.6.0", sample_size=999)
    image = load_components(converted, "vae")
    assert load_components(damaged, "vae", share=[image]).vae is image.vae
    change_config(damaged, scaling_factor=0.5)
    other = load_components(damaged, "vae", share=[image])
    assert image.hashes["vae"] == other.hashes["vae"] and other.vae is not image.vae


def test_the_vocabulary_is_read_from_the_folder(damaged):
    (damaged / "vocabulary.json").write_text('["cat", "dog"]')
    assert load_components(damaged, "vae").vocabulary == {"cat", "dog"}
    (damaged / "vocabulary.json").write_text("castle dog")
    with pytest.raises(UserError, match="vocabulary.json: expected a JSON list of words"):
        load_components(damaged, "vae")


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def overwrite(path):
    path.write_bytes(bytes(path.stat().st_size))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGED = {
    "file missing": (
        lambda f: (f / "unet/config.json").unlink(),
        "unet/config.json: missing from the converted model",
    ),
    "checkpoint truncated": (
        lambda f: truncate(largest(f / WEIGHTS)),
        "vae/weights/.* has .* bytes instead of .*convert again",
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
        lambda f: edit_json(f / METADATA, files=None),
        "its_jax.json: damaged; delete .*converted and convert again",
    ),
    "other format": (
        lambda f: edit_json(f / METADATA, format=99),
        f"converted in format 99, not {FORMAT}; convert it again",
    ),
    "no metadata": (lambda f: (f / METADATA).write_text(""), "its_jax.json: cannot be read as JSON"),
    "config of another depth": (
        lambda f: change_config(f, layers_per_block=2),
        "vae: tensor 'decoder.up_blocks.0.resnets.2.* is missing",
    ),
    "config of another width": (
        lambda f: change_config(f, norm_num_groups=2, block_out_channels=[4, 16]),
        r"vae: tensor '.*' has shape \[.*8.*\], the config asks for \[.*4.*\]",
    ),
    "latent channels": (
        lambda f: change_config(f, "unet", in_channels=9),
        "the vae's 4 channels; it takes 9 and gives 4",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_conversion_is_an_error_of_one_line(kind, damaged):
    damage, message = DAMAGED[kind]
    damage(damaged)
    with pytest.raises(UserError, match=message) as error:
        load_components(damaged, "unet", "vae")
    assert "\n" not in str(error.value)
