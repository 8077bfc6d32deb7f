"""The networks of the extra [eval], at full size with random weights, in the evaluation of work folders.

The tests are skipped if they are not installed; `.ci/run` installs them.
"""

import sys
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from its_jax.errors import UserError
from its_jax.evaluate import feature_networks
from its_jax.evaluate.run import run
from its_jax.media import images, sounds
from tests.helpers import finished_samples
from tests.helpers.evaluation import read_rows


@pytest.fixture
def random_weights(monkeypatch):
    """Keeps PyTorch from downloading weights."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    for owner, name in ((torch.hub, "load_state_dict_from_url"), (torch.nn.Module, "load_state_dict")):
        monkeypatch.setattr(owner, name, lambda *_, **__: {})
    yield
    feature_networks.inception.cache_clear()
    feature_networks.vggish.cache_clear()


@pytest.fixture
def fidelity(monkeypatch, random_weights):
    for name in ("", ".datasets", ".transforms", ".transforms.functional"):  # FID's network does not need them
        monkeypatch.setitem(sys.modules, f"torchvision{name}", mock.MagicMock())
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})


@pytest.fixture
def torchvggish(random_weights):
    pytest.importorskip("torchvggish")


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path / "cache"))
    finished_samples.write(
        tmp_path / "work", [finished_samples.record({"seed": seed}) for seed in range(3)], seconds=2.0
    )
    return tmp_path / "work"


def distance(workdir, name, reference, **options):
    run([str(workdir)], compare_with={name: str(reference)}, **options)
    (row,) = read_rows(workdir)
    return row["distances"][name]


def test_images_are_compared_by_inception(fidelity, workdir, tmp_path):
    found = feature_networks.inception()(np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8))
    assert found.shape == (2, 2048) and np.isfinite(found).all() and np.ptp(found[0] - found[1]) > 0
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        folder.mkdir()
    for i, path in enumerate(sorted(workdir.glob("*/spectrogram.png"))):
        gray = images.read_image(path)
        Image.fromarray((255 * gray).astype(np.uint8)).save(same / f"{i}.png")
        Image.fromarray(np.random.default_rng(i).integers(0, 256, gray.shape[:2], dtype=np.uint8)).save(
            other / f"{i}.png"
        )
    near, far = distance(workdir, "FID", same), distance(workdir, "FID", other)
    assert abs(near) < 1e-3 * far and far > 0


def test_audio_is_compared_by_vggish(torchvggish, workdir, tmp_path):
    rng = np.random.default_rng(0)
    found = feature_networks.vggish()(rng.normal(size=5 * 16000).astype(np.float32) / 5, 16000)
    assert found.shape == (5, 128) and np.isfinite(found).all() and np.ptp(found[0] - found[1]) > 0
    assert feature_networks.vggish()(rng.normal(size=48000 * 2) / 5, 48000).shape == (2, 128)
    with pytest.raises(UserError, match="shorter than 0.96 s, which VGGish needs"):
        feature_networks.vggish()(np.zeros(8000), 16000)
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        folder.mkdir()
    for i, path in enumerate(sorted(workdir.glob("*/audio.wav"))):
        (same / f"{i}.wav").write_bytes(path.read_bytes())
        sounds.write_wav(other / f"{i}.wav", rng.normal(size=32000) / 5, 16000, {})
    far = distance(workdir, "FAD", other, fad_features="vggish")
    assert abs(distance(workdir, "FAD", same, fad_features="vggish")) < 1e-3 * far and far > 0
