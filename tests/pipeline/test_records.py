"""Records of samples that an earlier version made (0.2.0, commit 8d1d256): each makes its sample again.

The models are random and built from a seed, `models/image` and `models/audio` below the folder that a command runs in.
Beside each record in tests/data/records/ lie the pixels and the sound that belonged to it, and the processor that made
them.
"""

import json
import os
import pathlib
import platform

import numpy as np
import pytest
import soundfile
from PIL import Image

from its_jax import sample
from tests.helpers import model_folder
from tests.helpers.small import quick_programs  # noqa: F401

RECORDS = pathlib.Path(__file__).parents[1] / "data" / "records"
METHODS = ("fused", "imprint", "sds")
# On another machine: a step of 8 bits for pictures, and what the vocoder makes of such a step.
TOLERANCE = {"image": 1.5 / 255, "spectrogram": 1.5 / 255, "audio": 0.05}

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Makes a folder with the models that the records name."""
    folder = tmp_path_factory.mktemp("records")
    model_folder.build(folder / "models" / "image", seed=0, vocoder=False)
    model_folder.build(folder / "models" / "audio", seed=1)
    return folder


@pytest.fixture(params=METHODS)
def record(request, folder, monkeypatch):
    """Gives the path of an old record, whose models are there."""
    monkeypatch.chdir(folder)
    return RECORDS / f"{request.param}.json"


def test_an_old_record_makes_its_sample_again(record, tmp_path):
    """Compares bits where all else is as it was, and allows for rounding elsewhere."""
    sample.run_again(record, tmp_path)
    (made,) = tmp_path.glob("*/sample.json")
    then, now = (json.loads(path.read_text(encoding="utf-8")) for path in (record, made))
    before, content = dict(np.load(record.with_suffix(".npz"))), content_of(made.parent)
    alike = str(before.pop("processor")) == processor() and what_decides_bits(then) == what_decides_bits(now)
    assert made.parent.name == now["id"] == then["id"]
    assert settings_of(now) == settings_of(then)
    assert content.keys() == before.keys()
    for name, array in before.items():
        np.testing.assert_allclose(content[name], array, rtol=0, atol=0 if alike else TOLERANCE[name], err_msg=name)
    if alike:
        assert now["run"]["latents_sha256"] == then["run"]["latents_sha256"]


def content_of(folder):
    """Returns what a sample's pictures and sound are, by name, as float32 arrays in [-1, 1]."""
    pictures = {path.stem: np.asarray(Image.open(path), np.float32) / 255 for path in folder.glob("*.png")}
    return pictures | {"audio": soundfile.read(folder / "audio.wav", dtype="float32")[0]}


def what_decides_bits(record):
    """Returns what a record tells of models, other packages' versions and the run, beside the digest of the latents."""
    versions = {name: version for name, version in record["versions"].items() if name != "its_jax"}
    run = {name: value for name, value in record["run"].items() if name != "latents_sha256"}
    return record["models"], versions, run


def settings_of(record):
    """Returns all that a record tells of the sample itself."""
    return {name: value for name, value in record.items() if name not in ("models", "versions", "run", "seconds")}


def processor():
    """Returns the machine's processor and its cores: on another one the same program may have other bits."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    told = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    return "\n".join([platform.machine(), f"{os.cpu_count()} cores", *told])
