"""The sample command refuses what cannot work in one line, before anything is written."""

import pathlib
import shutil

import pytest
import safetensors.torch
import torch

from its_jax import Pipeline, pretrained, sample
from its_jax.errors import UserError
from its_jax.settings.ids import sample_id
from tests.helpers.fixed_pipeline import NoPipeline
from tests.helpers.model_folder import edit, edit_json
from tests.helpers.sample_files import ROOT, in_a_process
from tests.helpers.small import CONFIG

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_step": 3}, "there is no setting num_step; did you mean num_steps?"),
        ({"image.promt": "x"}, "there is no setting image.promt; did you mean image.prompt?"),
        ({"image.size": 3}, "there is no setting image.size; known are"),
        ({"num_steps": "many"}, "num_steps"),
        ({"solver": "heun"}, "solver='heun' is not known here; choose one of ddim, euler, dpmpp_2m"),
        ({"image.view": "block_rearrange", "crop_image": True}, "crop_image cuts the end of the spectrogram off"),
        ({"image.view": "flip"}, "image.view='flip' is not known here; choose one of identity, block_rearrange"),
        ({"num_steps": 0}, "num_steps=0: must be 1 or more"),
        ({"image.start_step": 4, "audio.start_step": 7}, "no model is active at step 0 of 4"),
        ({"image.weight": 0.0, "audio.weight": 0.0}, "sum to zero"),
        ({"num_samples": -1}, "num_samples=-1: must be 1 or more"),
        ({"batch_size": -1}, "batch_size=-1: must be 0"),
        ({"height": -12}, "height=-12: must be 1 or more"),
        ({"image.model": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_bad_settings_are_refused_in_one_line(change, message, refused):
    assert message in refused(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 1001}, "num_steps=1001: must be 1 to 1000, the number of training steps"),
        ({"width": 47}, "width=47: must be a multiple of 2"),
        ({"width": 46, "image.view": "block_rearrange"}, "width=46: must be a multiple of 4"),
        ({"width": 32, "crop_image": True}, "width=32: must be above 32"),
        ({"width": 8, "cutoff_latent": True}, "width=8: must be above 8"),
        ({"height": 14}, "height=14: the vocoder has 12 mel bands"),
    ],
)
def test_settings_that_do_not_fit_the_models_are_refused(change, message, refused):
    assert message in refused(change, Pipeline(loader=WeightlessLoader()))


class WeightlessLoader:
    """Opens models, but fails the test that reads their weights."""

    check_components = staticmethod(pretrained.check_components)
    abstract_model = staticmethod(pretrained.abstract_model)

    def restore_weights(self, model, **options):
        raise AssertionError("weights are read before the settings are checked")


def test_a_command_that_makes_no_sense_is_refused(command, tmp_path):
    workdir = f"--workdir={tmp_path / 'out'}"
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "typo.py").write_text("def get_config():\n    return x\n")
    (tmp_path / "dict.py").write_text("def get_config():\n    return {'seed': 1}\n")
    for arguments, message in [
        ([workdir, f"--config={CONFIG}", "--from=a.png"], "give either --config"),
        ([workdir, f"--config={CONFIG}", "--size=3"], "size"),
        ([workdir, f"--config={CONFIG}", "surplus"], "unexpected argument 'surplus'"),
        (
            [workdir, f"--config={tmp_path / 'none.py'}"],
            "none.py: neither a file nor a shipped config; shipped are",
        ),
        ([workdir, f"--from={tmp_path / 'none.png'}"], "none.png: cannot read: No such file"),
        ([workdir, f"--from={tmp_path / 'a.png'}"], "a.png: cannot read"),
        ([workdir, "--from="], "settings are read from"),
        ([workdir, f"--config={tmp_path / 'typo.py'}"], "typo.py, line 2: NameError: name 'x' is not defined"),
        ([workdir, f"--config={tmp_path / 'dict.py'}"], "get_config must return a ConfigDict, not a dict"),
        ([workdir, f"--from={tmp_path / 'other.json'}"], "not the settings of a sample of ours"),
        ([workdir, f"--config={ROOT / 'configs/sd15_auffusion.py'}:lion"], "'lion'; choose one of bell, corgi, dog"),
    ]:
        status, lines = command(*arguments)
        assert status == 2 and len(lines) == 1 and lines[0].startswith("error: "), (arguments, lines)
        assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_an_unknown_setting_ends_the_process_with_one_line(tmp_path):
    result = in_a_process(f"--config={CONFIG}", f"--workdir={tmp_path / 'out'}", "--config.num_step=3")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and "did you mean num_steps?" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_workdir_that_cannot_be_written_is_refused(small, tmp_path):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=rf"workdir {workdir}: cannot be written"):
            sample.run(small(), workdir, NoPipeline())


def test_a_sample_folder_that_cannot_be_made_is_named(small, shared, expand, tmp_path):
    (tmp_path / sample_id(expand()[0])).touch()
    with pytest.raises(UserError, match="cannot write: File exists"):
        sample.run(small(), tmp_path, shared)


def drop(state):
    del state["final_layer_norm.bias"]


def add(state):
    state["final_layer_norm.gain"] = torch.ones(3)


def reshape(state):
    state["final_layer_norm.bias"] = torch.ones(3)


def spoil(state):
    state["final_layer_norm.bias"][1] = torch.nan


def tensors(change):
    """A damage to the text encoder, which is converted first."""
    return lambda folder: edit(folder / "text_encoder" / "model.safetensors", change)


def truncate(folder):
    file = folder / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def other_architecture(folder):
    edit_json(folder / "text_encoder" / "config.json", architectures=["BertModel"])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, ["damaged"]),
        (empty, ["damaged", "empty"]),
        (tensors(drop), ["'final_layer_norm.bias'", "missing"]),
        (tensors(add), ["'final_layer_norm.gain'", "no place"]),
        (tensors(reshape), ["'final_layer_norm.bias'", "shape [3]", "asks for [24]"]),
        (tensors(spoil), ["'final_layer_norm.bias'", "not finite"]),
        (truncate, ["model.safetensors"]),
        (other_architecture, ["BertModel", "only CLIPTextModel or T5EncoderModel is supported"]),
    ],
)
def test_a_damaged_model_is_refused_by_name(damage, words, sources, refused, tmp_path):
    damage(shutil.copytree(sources / "image", tmp_path / "damaged"))
    message = refused({"image.model": tmp_path / "damaged"})
    assert not [word for word in words if word not in message], message
    assert safetensors.torch.load_file(sources / "image" / "text_encoder" / "model.safetensors")


def test_models_that_do_not_fit_are_refused(models, refused, tmp_path):
    other = pathlib.Path(shutil.copytree(models["audio.model"], tmp_path / "other"))
    config = other / "vae" / "config.json"
    changed = config.read_text().replace("0.18215", "0.28215")
    config.write_text(changed)
    message = refused({"audio.model": other})
    assert "do not share a latent space: the vae's scaling_factor is 0.18215 in the one and 0.28215" in message
    shutil.copy(pathlib.Path(models["audio.model"]) / "vae" / "config.json", config)
    schedule = other / "scheduler" / "scheduler_config.json"
    schedule.write_text(schedule.read_text().replace("0.012", "0.013"))
    assert "different noise schedules" in refused({"audio.model": other})


def test_a_model_without_vocoder_cannot_sound(models, refused):
    assert "has no vocoder" in refused({"audio.model": models["image.model"]})


def test_a_setting_that_a_users_config_leaves_out_cannot_be_a_flag(tmp_path):
    lines = [line for line in CONFIG.read_text().splitlines() if "config.seed" not in line]
    (tmp_path / "own.py").write_text("\n".join(lines))
    result = in_a_process(f"--config={tmp_path / 'own.py'}", f"--workdir={tmp_path / 'out'}", "--config.seed=3")
    assert result.returncode == 2
    assert result.stderr == "error: the config leaves out seed: add it there, so that the command line can change it\n"


def test_an_unknown_setting_in_a_users_config_is_reported(command, tmp_path):
    own = CONFIG.read_text().replace("config.num_steps", "config.num_stepps")
    (tmp_path / "own.py").write_text(own)
    status, lines = command(f"--config={tmp_path / 'own.py'}", f"--workdir={tmp_path / 'out'}")
    assert status == 2 and lines == ["error: there is no setting num_stepps; did you mean num_steps?"]
