"""What is told about files for whoever gets them: marks, signatures, and the safety checker's opinion."""

import subprocess
import types

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image

from convert import safety
from its_jax import sign
from its_jax.errors import UserError
from its_jax.media import metadata, signing, sounds, video
from its_jax.media.embedded_settings import read_settings
from its_jax.storage import samples
from tests.helpers import finished_samples as finished
from tests.helpers.credentials import make as make_credentials


@pytest.fixture
def sample(tmp_path):
    """A folder with a picture, a sound and a video."""
    (name,) = finished.write(tmp_path, [finished.record()])
    found = samples.open_sample(tmp_path / name)
    waveform, rate = found.read_audio()
    video.write_video(tmp_path / name / "video.mp4", found.read_image(), waveform, rate, "a", "b", settings={"seed": 7})
    (tmp_path / name / "audio.flac").write_bytes(sounds.flac(waveform, rate, dict(found.record)))
    return tmp_path / name


def test_files_are_marked_without_being_asked(sample):
    with Image.open(sample / "image.png") as image:
        assert metadata.SOURCE_TYPE in image.text[metadata.XMP_KEY]
    for name in ("audio.wav", "audio.flac"):
        assert metadata.SOFTWARE.encode() in (sample / name).read_bytes()


def test_a_video_holds_its_settings_and_the_mark(sample):
    told = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(sample / "video.mp4")], capture_output=True, text=True
    ).stderr
    assert 'comment         : {"seed": 7}' in told and metadata.SOFTWARE in told and "title           : a | b" in told


# Signatures


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    return make_credentials(tmp_path_factory.mktemp("credentials"))


@pytest.mark.parametrize("name", ["image.png", "audio.wav", "audio.flac", "video.mp4"])
def test_a_signed_file_says_that_it_was_made_by_models(sample, credentials, name):
    c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed: pip install -e '.[c2pa]'")
    before = read_settings(sample / name) if name in ("image.png", "audio.wav") else None
    signing.sign(sample / name, *credentials)
    with c2pa.Reader(str(sample / name)) as reader:
        assert reader.get_validation_state() == "Valid" and metadata.SOURCE_TYPE in reader.json()
    assert before is None or read_settings(sample / name) == before
    content = bytearray((sample / name).read_bytes())
    content[len(content) // 2] ^= 1
    (sample / name).write_bytes(content)
    try:
        with c2pa.Reader(str(sample / name)) as reader:
            assert reader.get_validation_state() == "Invalid"
    except c2pa.C2paError:
        pass  # what was changed is the manifest


def command(monkeypatch, credentials):
    """`its_jax.sign` with its flags given."""
    given = {"_CERTIFICATE": credentials[0], "_KEY": credentials[1], "_ALGORITHM": "es256", "_TIMESTAMPS": ""}
    for name, value in given.items():
        monkeypatch.setattr(sign, name, types.SimpleNamespace(value=value))
    return sign.main


def test_the_command_signs_all_of_a_sample(sample, credentials, monkeypatch):
    monkeypatch.setattr(signing, "signed", lambda path, *how: b"signed " + path.name.encode())
    command(monkeypatch, credentials)(str(sample))
    kinds = [path for path in sample.iterdir() if path.name != "sample.json"]
    assert len(kinds) == 5 and all(path.read_bytes() == b"signed " + path.name.encode() for path in kinds)
    with pytest.raises(UserError, match="there is nothing in it that can be signed"):
        (sample / "empty").mkdir()
        sign.main(str(sample / "empty"))
    with pytest.raises(UserError, match="nowhere.png: no such file or folder"):
        sign.main(str(sample / "nowhere.png"))


def test_or_none_of_it(sample, credentials, monkeypatch):
    pytest.importorskip("c2pa", reason="c2pa-python is not installed: pip install -e '.[c2pa]'")
    (sample / "video.mp4").write_bytes(b"no video")
    before = {path: path.read_bytes() for path in sample.iterdir()}
    with pytest.raises(UserError, match="video.mp4: cannot be signed"):
        command(monkeypatch, credentials)(str(sample))
    assert {path: path.read_bytes() for path in sample.iterdir()} == before


def test_what_cannot_be_signed_is_named(sample, credentials, tmp_path):
    pytest.importorskip("c2pa", reason="c2pa-python is not installed: pip install -e '.[c2pa]'")
    with pytest.raises(UserError, match="sample.json: only .png, .wav"):
        signing.sign(sample / "sample.json", *credentials)
    with pytest.raises(UserError, match="nowhere.pem: No such file"):
        signing.sign(sample / "image.png", tmp_path / "nowhere.pem", credentials[1])
    (tmp_path / "no.pem").write_text("no certificate")
    before = (sample / "image.png").read_bytes()
    with pytest.raises(UserError, match="image.png: cannot be signed with"):
        signing.sign(sample / "image.png", tmp_path / "no.pem", credentials[1])
    assert (sample / "image.png").read_bytes() == before


# The safety checker


@pytest.fixture(scope="module")
def checker(tmp_path_factory):
    """A small one with weights and thresholds drawn by chance."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = size | {"image_size": 32, "patch_size": 8}
    model = StableDiffusionSafetyChecker(
        transformers.CLIPConfig(vision_config=vision, text_config=size, projection_dim=16)
    )
    for parameter in (model.concept_embeds, model.special_care_embeds):
        parameter.data = torch.randn(parameter.shape)
    model.concept_embeds_weights.data = torch.full((17,), 0.4)
    model.special_care_embeds_weights.data = torch.full((3,), 0.2)
    folder = tmp_path_factory.mktemp("checker")
    model.save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    return folder, model.eval()


def test_what_the_checker_withholds_is_below_zero(checker):
    folder, model = checker
    processor = transformers.CLIPImageProcessor.from_pretrained(folder)
    safe, rng, seen = safety.Safe(str(folder)), np.random.default_rng(0), set()
    for scale in np.linspace(0.05, 1, 12):
        pictures = {"image": np.clip(rng.random((40, 48, 3)) * scale + rng.random(3) * (1 - scale), 0, 1)}
        (found,) = safe([types.SimpleNamespace(pictures=pictures)])["safe"]
        pixels = processor(images=np.rint(pictures["image"] * 255).astype(np.uint8), return_tensors="pt").pixel_values
        _, (withheld,) = model(clip_input=pixels, images=[pictures["image"].copy()])
        if abs(found) > 0.1:  # diffusers rounds to a thousandth
            assert (found < 0) == withheld
            seen.add(withheld)
    assert seen


def test_no_checker_is_one_line(tmp_path):
    with pytest.raises(UserError, match="the safety checker cannot be had"):
        safety.Safe(str(tmp_path / "nowhere")).margin(np.zeros((8, 8, 3)))
