"""Records of samples that an earlier version generated (0.2.0, commit 8d1d256): each gives its sample again.

The models are random and built from a seed, `models/image` and `models/audio` below the folder that a command runs in.
Beside each record in tests/data/records/ are the images and the audio of its sample, and the processor that computed
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
# On another machine: one of 256 levels for images, and what the vocoder makes of such a difference.
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
    """Returns the path of an old record; its models are in the current folder."""
    monkeypatch.chdir(folder)
    return RECORDS / f"{request.param}.json"


def test_an_old_record_generates_its_sample_again(record, tmp_path):
    """Compares bits on the same machine with the same packages, and allows for rounding elsewhere."""
    sample.run_again(record, tmp_path)
    (made,) = tmp_path.glob("*/sample.json")
    then, now = (json.loads(path.read_text(encoding="utf-8")) for path in (record, made))
    before, content = dict(np.load(record.with_suffix(".npz"))), content_of(made.parent)
    alike = str(before.pop("processor")) == processor() and causes_of_bits(then) == causes_of_bits(now)
    assert made.parent.name == now["id"] == then["id"]
    assert settings_of(now) == settings_of(then)
    assert content.keys() == before.keys()
    for name, array in before.items():
        np.testing.assert_allclose(content[name], array, rtol=0, atol=0 if alike else TOLERANCE[name], err_msg=name)
    if alike:
        assert now["run"]["latents_sha256"] == then["run"]["latents_sha256"]


def content_of(folder):
    """Returns the images of a sample in [0, 1] and its audio in [-1, 1] by name, as float32 arrays."""
    images = {path.stem: np.asarray(Image.open(path), np.float32) / 255 for path in folder.glob("*.png")}
    return images | {"audio": soundfile.read(folder / "audio.wav", dtype="float32")[0]}


def causes_of_bits(record):
    """Returns the models, the versions of other packages and the run of a record, without the digest of the latents."""
    versions = {name: version for name, version in record["versions"].items() if name != "its_jax"}
    run = {name: value for name, value in record["run"].items() if name != "latents_sha256"}
    return record["models"], versions, run


def settings_of(record):
    """Returns the settings and the id of a record."""
    return {name: value for name, value in record.items() if name not in ("models", "versions", "run", "seconds")}


def processor():
    """Returns the machine's processor and its cores; on another one the same program may give other bits."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    described = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    return "\n".join([platform.machine(), f"{os.cpu_count()} cores", *described])
