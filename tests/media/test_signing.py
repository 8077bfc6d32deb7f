"""Signatures of files (C2PA)."""

import functools

import pytest

from its_jax.errors import UserError
from its_jax.media import metadata, signing, sounds, videos
from its_jax.media.embedded_settings import read_settings
from its_jax.storage import samples
from tests.helpers import credentials, finished_samples


@pytest.fixture
def sample(tmp_path):
    """A folder with files of every kind that can be signed."""
    (name,) = finished_samples.write(tmp_path, [finished_samples.record()])
    found = samples.open_sample(tmp_path / name)
    waveform, rate = found.read_audio()
    videos.write_video(tmp_path / name / "video.mp4", found.read_image(), waveform, rate, "a", "b")
    (tmp_path / name / "audio.flac").write_bytes(sounds.flac(waveform, rate, dict(found.record)))
    return tmp_path / name


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The paths of a certificate and of its key."""
    return credentials.make(tmp_path_factory.mktemp("credentials"))


@pytest.fixture(scope="module")
def c2pa():
    return pytest.importorskip("c2pa", reason="c2pa-python is not installed: pip install -e '.[c2pa]'")


@pytest.mark.parametrize("name", ["image.png", "audio.wav", "audio.flac", "video.mp4"])
def test_a_signature_says_that_a_model_generated_the_file_and_detects_changes(sample, certificate, c2pa, name):
    before = read_settings(sample / name) if name in ("image.png", "audio.wav") else None
    signing.sign(sample / name, *certificate)
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
        pass  # The changed byte is in the manifest.


def test_all_files_of_a_sample_are_signed(sample):
    signed = signing.sign_all(sample, lambda path: b"signed " + path.name.encode())
    assert len(signed) == 5 and signed == sorted(path for path in sample.iterdir() if path.name != "sample.json")
    assert all(path.read_bytes() == b"signed " + path.name.encode() for path in signed)


def test_no_file_of_a_sample_is_changed_unless_all_can_be_signed(sample, certificate, c2pa):
    (sample / "video.mp4").write_bytes(b"not a video")
    before = {path: path.read_bytes() for path in sample.iterdir()}
    sign = functools.partial(signing.signed, certificate=certificate[0], key=certificate[1])
    with pytest.raises(UserError, match="video.mp4: cannot be signed"):
        signing.sign_all(sample, sign)
    assert {path: path.read_bytes() for path in sample.iterdir()} == before


def test_a_path_without_files_to_sign_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is nothing in it that can be signed"):
        signing.sign_all(tmp_path, lambda path: b"")
    with pytest.raises(UserError, match="nowhere.png: no such file or folder"):
        signing.sign_all(tmp_path / "nowhere.png", lambda path: b"")


def test_a_file_that_cannot_be_signed_is_named_and_kept(sample, certificate, c2pa, tmp_path):
    with pytest.raises(UserError, match="sample.json: only .png, .wav"):
        signing.sign(sample / "sample.json", *certificate)
    with pytest.raises(UserError, match="nowhere.pem: No such file"):
        signing.sign(sample / "image.png", tmp_path / "nowhere.pem", certificate[1])
    (tmp_path / "no.pem").write_text("not a certificate")
    before = (sample / "image.png").read_bytes()
    with pytest.raises(UserError, match="image.png: cannot be signed with"):
        signing.sign(sample / "image.png", tmp_path / "no.pem", certificate[1])
    assert (sample / "image.png").read_bytes() == before
