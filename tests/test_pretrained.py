"""Loading models from their sources: missing files and components are reported before weights are read."""

import shutil

import jax.numpy as jnp
import pytest

from convert import conversion
from its_jax import pretrained
from its_jax.errors import UserError
from tests.helpers import model_folder
from tests.helpers.model_folder import edit_json


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A model folder without a vocoder."""
    folder = tmp_path_factory.mktemp("original") / "silent"
    model_folder.build(folder, vocoder=False)
    return folder


@pytest.fixture
def source(original, tmp_path, monkeypatch):
    """A copy of `original`, which a test may change, and a new cache folder."""
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(original, tmp_path / "silent")


def test_a_model_is_loaded_from_its_folder_or_its_conversion(source, tmp_path):
    direct = pretrained.load_model(str(source), components=("unet", "vae"), dtype=jnp.float32)
    out = conversion.convert(str(source), tmp_path / "out")
    converted = pretrained.load_model(str(out), components=("unet", "vae"), dtype=jnp.float32, share=[direct])
    assert direct.identity == converted.identity and direct.source == str(source) and converted.folder == out
    assert converted.unet is direct.unet and converted.vae is direct.vae


def test_a_missing_component_is_named(source, tmp_path):
    with pytest.raises(UserError, match="silent: has no vocoder; the components of this model are text_enc"):
        pretrained.load_model(str(source), dtype=jnp.float32)
    assert not (tmp_path / "cache" / "models").exists()  # nothing is converted
    out = conversion.convert(str(source), tmp_path / "out")
    edit_json(out / "its_jax.json", parts={"unet": {"sha256": ""}})
    with pytest.raises(UserError, match="out: has no vae; the components of this model are unet"):
        pretrained.load_model(str(out), components=("unet", "vae"), dtype=jnp.float32)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("tokenizer", "tokenizer/ is missing or cannot be read"),
        ("scheduler", "scheduler/scheduler_config.json is missing"),
    ],
)
def test_a_missing_tokenizer_or_scheduler_is_named(removed, message, source):
    shutil.rmtree(source / removed)
    with pytest.raises(UserError, match=message) as error:
        pretrained.load_model(str(source), components=("text_encoder", "unet"), dtype=jnp.float32)
    assert "\n" not in str(error.value)


def test_embedded_models_are_part_of_the_package():
    pretrained.check_components("tiny/audio", ["text_encoder", "unet", "vae", "vocoder"])
    pretrained.check_components("tiny/clip", ["dual_encoder"])


def test_a_misspelled_embedded_model_is_not_looked_up_on_the_hub():
    known = "tiny/image, tiny/audio, tiny/clip, tiny/clap, tiny/color"
    with pytest.raises(UserError, match=f"tiny/adio: not an embedded model; choose one of {known}"):
        pretrained.load_model("tiny/adio", dtype=jnp.float32)
