"""WAV and FLAC files: their values and tags, and the gain at which they hold a sound."""

import io
import json
import re

import numpy as np
import pytest
import soundfile

from its_jax.errors import UserError
from its_jax.media import sounds, videos

STEP = 1 / 2**15  # of 16 bits


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


def at_gain(gain_db):
    return {"seed": 1, "run": {"gain_db": gain_db}, "image": {"prompt": "a = b; c # d \\ e\n" * 99}}


@pytest.mark.parametrize("gain_db", [90.0, 60.0, 20.0, 12.34, 0.01, 0.0, -0.01, -6.03, -20.0, -47.9])
def test_files_hold_a_sound_at_its_gain_and_are_read_at_the_raw_scale(gain_db, tmp_path):
    """An odd number of samples makes an odd number of bytes of 24 bits each, which RIFF pads."""
    peak = min(1.0, 10 ** (-(gain_db + 1) / 20))
    waveform = (peak * np.random.default_rng(0).uniform(-1, 1, 40001)).astype(np.float32)
    rounded = (np.rint(waveform.astype(np.float64) * 2**15) / 2**15).clip(-1, 1 - STEP)
    wav, flac = tmp_path / "a.wav", tmp_path / "a.flac"
    sounds.write_wav(wav, waveform, 16000, at_gain(gain_db))
    flac.write_bytes(sounds.flac(waveform, 16000, at_gain(gain_db)))
    for path in (wav, flac):
        played, _ = soundfile.read(path)
        np.testing.assert_allclose(played, rounded * 10 ** (gain_db / 20), rtol=0, atol=0.51 * STEP)
        np.testing.assert_array_equal(sounds.read_audio(path, 16000), rounded)
        assert soundfile.info(path).subtype == ("PCM_16" if gain_db >= 0 else "PCM_24")
    raw, _, settings = sounds.read_wav(wav)
    assert settings == at_gain(gain_db) and raw.dtype == np.float32
    np.testing.assert_array_equal(raw, rounded)
    sounds.write_wav(tmp_path / "again.wav", raw, 16000, settings)
    assert (tmp_path / "again.wav").read_bytes() == wav.read_bytes()


def test_a_sound_without_a_gain_has_the_raw_scale(tmp_path):
    """Also where the tag is someone else's."""
    waveform = np.random.default_rng(0).uniform(-0.1, 0.1, 500)
    for settings in ({}, {"seed": 1}, {"run": {"batch_size": 2}}, {"run": "fast"}):
        assert sounds.plain_wav(waveform, 16000)[44:] in sounds.wav(waveform, 16000, settings)
    for comment in ("rehearsal, take 3", "[1]", "7"):
        with soundfile.SoundFile(tmp_path / "a.flac", "w", 16000, 1) as file:
            file.comment = comment
            file.write(waveform)
        np.testing.assert_allclose(sounds.read_audio(tmp_path / "a.flac", 16000), waveform, rtol=0, atol=STEP)


def test_the_sound_of_a_video_has_the_gain_and_is_read_at_the_raw_scale(tmp_path):
    seconds = np.arange(16000) / 16000
    waveform, path = 0.01 * np.sin(2 * np.pi * 440 * seconds), tmp_path / "a.mp4"
    videos.write_video(path, np.zeros((8, 8)), waveform, 16000, "a", "b", settings=at_gain(30.0))
    raw = sounds.read_audio(path, 16000)
    assert raw[1000:15000].std() == pytest.approx(0.01 / 2**0.5, rel=0.02)  # AAC is lossy
    videos.write_video(path, np.zeros((8, 8)), waveform, 16000, "a", "b")
    louder = path.with_name("b.mp4")
    videos.write_video(louder, np.zeros((8, 8)), waveform * 10**1.5, 16000, "a", "b")
    assert sounds.read_audio(louder, 16000).std() == pytest.approx(10**1.5 * raw.std(), rel=0.02)


@pytest.mark.parametrize("gain_db", ["loud", None, True, float("nan"), 101.0])
def test_a_damaged_gain_is_named_in_the_error(gain_db, tmp_path):
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        file.comment = json.dumps({"run": {"gain_db": gain_db}})
        file.write(np.zeros(8))
    with pytest.raises(UserError, match=re.escape(f"{path}: cannot read: run.gain_db={gain_db!r}: must be a number")):
        sounds.read_audio(path, 16000)
