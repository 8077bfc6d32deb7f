"""Configs are found by path or by name, and a copy gives the same settings from any folder."""

import pathlib
import shutil

import pytest

from its_jax import Pipeline
from its_jax.errors import UserError
from its_jax.runtime import config_files

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["views", "views.py", "configs/views.py", str(CONFIGS / "views.py")])
def test_shipped_configs_have_names(name):
    assert config_files.resolve(name) == str(CONFIGS / "views.py")
    assert config_files.load_config(f"{name}:square").image.view == "block_rearrange"


@pytest.mark.parametrize("name", ["default", "default.py", "configs/default.py"])
def test_a_local_file_of_that_path_takes_precedence(name, elsewhere):
    local = elsewhere / name
    local.parent.mkdir(exist_ok=True)
    local.write_text(
        "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({'seed': 77})\n"
    )
    assert config_files.load_config(name).to_dict() == {"seed": 77}
    # Other shipped configs build on the shipped one, not on that file.
    assert config_files.load_config("sweep").seed == 0 and config_files.load_config("views").num_steps == 25


def test_a_folder_of_that_name_does_not_hide_a_config(elsewhere):
    (elsewhere / "default").mkdir()
    assert config_files.load_config("default").image.model == "tiny/image"


@pytest.mark.parametrize("name", ["defualt", "", "configs", "default.txt", "~nobody/x.py", "x" * 300])
def test_an_unknown_name_lists_the_names(name):
    with pytest.raises(UserError, match="neither a file nor a shipped config; shipped are") as caught:
        config_files.load_config(name)
    assert all(path.stem in str(caught.value) for path in CONFIGS.glob("*.py"))


def test_a_pipeline_takes_the_name_of_a_config():
    with pytest.raises(UserError, match="configs/views.py has no example 'round'"):
        Pipeline.from_config("views:round")


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.py")))
def test_a_copy_works_in_any_folder_with_each_word(name, elsewhere):
    shutil.copy(CONFIGS / f"{name}.py", elsewhere / "mine.py")
    words = config_files.shipped(name).get("ARGUMENTS", ())
    for argument in ("", *(f":{word}" for word in words)):
        expected = config_files.load_config(f"{name}{argument}")
        assert config_files.load_config(f"mine.py{argument}") == expected
        prompts = expected.to_dict().get("prompts")
        assert not prompts or pathlib.Path(prompts).is_file()
    if words:
        with pytest.raises(UserError, match="nonsense"):
            config_files.load_config(f"{name}:nonsense")
