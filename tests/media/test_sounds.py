"""WAV and FLAC files: their values and tags."""

import io
import json

import numpy as np
import pytest
import soundfile

from its_jax.errors import UserError
from its_jax.media import sounds


def test_wav_rounds_to_16_bits_and_clips(tmp_path):
    rng = np.random.default_rng(0)
    levels = rng.integers(-32768, 32768, 999)
    sounds.write_wav(tmp_path / "a.wav", (levels + rng.uniform(-0.4, 0.4, 999)) / 32768, 22050, {})
    waveform, sampling_rate, _ = sounds.read_wav(tmp_path / "a.wav")
    np.testing.assert_array_equal(waveform, levels.astype(np.float32) / 32768)
    assert sampling_rate == 22050 and soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    sounds.write_wav(tmp_path / "b.wav", np.array([-2.0, 2.0]), 16000, {})
    np.testing.assert_array_equal(sounds.read_wav(tmp_path / "b.wav")[0], np.float32([-1, 32767 / 32768]))


def test_writing_the_waveform_that_was_read_gives_the_same_bytes(tmp_path):
    sounds.write_wav(tmp_path / "a.wav", np.random.default_rng(0).uniform(-1, 1, 500), 16000, {"seed": 1})
    sounds.write_wav(tmp_path / "b.wav", *sounds.read_wav(tmp_path / "a.wav"))
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_a_damaged_wav_is_named_in_the_error(tmp_path):
    path = tmp_path / "a.wav"
    sounds.write_wav(path, np.zeros(8), 16000, {})
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=f"^{path}: "):
        sounds.read_wav(path)


@pytest.mark.parametrize("prompt", ["bell ringing", ""])
def test_flac_has_the_values_and_settings_of_wav(prompt):
    waveform = np.random.default_rng(0).uniform(-1, 1, 500)
    settings = {"seed": 1, "audio": {"prompt": prompt}}
    (from_flac, rate), (from_wav, _) = (
        soundfile.read(io.BytesIO(encode(waveform, 16000, settings)), dtype="int16")
        for encode in (sounds.flac, sounds.wav)
    )
    np.testing.assert_array_equal(from_flac, from_wav)
    with soundfile.SoundFile(io.BytesIO(sounds.flac(waveform, 16000, settings))) as file:
        assert (rate, json.loads(file.comment), file.title) == (16000, settings, prompt)
