"""Loudness and true peak, by what the standards and ffmpeg's meter say, and the gain that follows from them."""

import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from its_jax.media.loudness import choose_gain_db, integrated_loudness, true_peak

RATES = (16000, 22050, 44100, 48000)


def sine(level, frequency, rate, seconds, phase=0.0):
    """A sine whose peak is `level` dBFS."""
    return 10 ** (level / 20) * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate + phase)


def written(waveform, gain_db):
    """The values of a 16-bit file: those of the raw scale times the gain."""
    return np.rint(np.rint(2**15 * waveform) * 10 ** (gain_db / 20)) / 2**15


@pytest.mark.parametrize("rate", RATES)
def test_a_sine_of_997_hz_at_full_scale_in_one_channel_has_minus_3_01_lufs(rate):
    """BS.1770 says this, with coefficients for 48 kHz. EBU Tech 3341 allows meters 0.1 LU."""
    measured = integrated_loudness(sine(0, 997, rate, 20), rate)
    assert measured == pytest.approx(-3.01, abs=0.01 if rate == 48000 else 0.1)


@pytest.mark.parametrize(
    "levels",
    [
        [(-23, 20)],
        [(-36, 10), (-23, 60), (-36, 10)],
        [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)],
        [(-26, 20), (-20, 20.1), (-26, 20)],
    ],
)
def test_the_signals_of_ebu_tech_3341(levels):
    """Cases 1, 3, 4 and 5: sines of 1 kHz in two channels have -23.0 LUFS; in one, half the power, -26.0."""
    signal = np.concatenate([sine(level, 1000, 48000, seconds) for level, seconds in levels])
    assert integrated_loudness(signal, 48000) == pytest.approx(-23 - 3.01, abs=0.1)


def test_loudness_and_true_peak_are_those_of_ffmpegs_meter(tmp_path):
    """Noise that swells and fades, with a click. The meter prints tenths, and resamples to 192 kHz for the peak."""
    rate = 48000
    noise = np.random.default_rng(0).normal(size=5 * rate) * np.linspace(0, 0.2, 5 * rate) ** 2
    noise[rate : rate + 4] = 0.4, -0.5, 0.5, -0.4
    soundfile.write(tmp_path / "a.wav", noise, rate, "FLOAT")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostats", "-i", tmp_path / "a.wav"]
    report = subprocess.run([*command, "-af", "ebur128=peak=true", "-f", "null", "-"], capture_output=True, check=True)
    summary = report.stderr.decode().rpartition("Summary:")[2]
    loudness, peak = (float(re.search(rf"{name}: +(-?[\d.]+) ", summary)[1]) for name in ("I", "Peak"))
    assert integrated_loudness(noise, rate) == pytest.approx(loudness, abs=0.1)
    assert true_peak(noise) == pytest.approx(peak, abs=0.15)


def test_the_true_peak_lies_between_samples():
    """At a quarter of the sampling rate and 45 degrees, all samples are at 0.7071 of the peak."""
    tone = sine(-6, 4000, 16000, 0.1, phase=np.pi / 4)
    assert 20 * np.log10(np.abs(tone).max()) == pytest.approx(-9.01, abs=0.01)
    assert true_peak(tone) == pytest.approx(-6, abs=0.15)
    assert true_peak(np.zeros(100)) == true_peak(np.zeros(0)) == -np.inf
    assert true_peak(np.eye(1, 100, 50)[0]) == pytest.approx(0, abs=0.05)  # a single sample


@pytest.mark.parametrize("loudness", [-16.0, -23.0, -40.0])
def test_a_steady_sound_is_written_at_its_loudness(loudness):
    quiet, loud = sine(-50, 440, 16000, 2), 0.9 * np.sign(sine(0, 440, 16000, 2))
    for waveform in (quiet, loud):
        gain_db = choose_gain_db(waveform, 16000, loudness)
        measured = integrated_loudness(waveform * 10 ** (gain_db / 20), 16000)
        assert loudness - 0.011 <= measured <= loudness  # The gain is rounded down to a hundredth.


def test_a_sound_of_few_clicks_is_written_at_its_true_peak():
    """Such as a clock, of which -16 LUFS would clip."""
    rng = np.random.default_rng(0)
    clicks = np.zeros(5 * 16000)
    for start in range(0, len(clicks), 8000):
        clicks[start : start + 40] = 0.1 * rng.normal(size=40)
    gain_db = choose_gain_db(clicks, 16000, -16.0)
    assert gain_db == pytest.approx(-1 - true_peak(clicks), abs=0.011)
    assert integrated_loudness(clicks * 10 ** (gain_db / 20), 16000) < -20


def test_the_peak_alone_counts_below_0_4_seconds_and_minus_70_lufs():
    short, long = sine(-30, 1000, 16000, 0.399), sine(-30, 1000, 16000, 0.4)
    assert choose_gain_db(short, 16000, -23.0) == pytest.approx(29, abs=0.05)  # to -1 dBFS
    assert choose_gain_db(long, 16000, -23.0) == pytest.approx(-23 + 33, abs=0.15)
    faint = sine(-75, 1000, 16000, 1)
    assert integrated_loudness(faint, 16000) == -np.inf  # BS.1770 leaves out blocks below -70 LUFS
    assert choose_gain_db(faint, 16000, -40.0) == pytest.approx(74, abs=0.5)  # of a peak of 6 steps of 16 bits


def test_silence_stays_silence():
    """A waveform that rounds to silence in 16 bits is silence, too."""
    for waveform in (np.zeros(0), np.zeros(100), np.zeros(16000), np.full(16000, 1e-5), np.float32([0.5 / 2**15])):
        assert choose_gain_db(waveform, 16000, -16.0) == 0
    assert choose_gain_db(np.full(100, 0.51 / 2**15), 16000, -16.0) > 85


def test_the_raw_scale_and_values_that_no_file_can_hold_have_no_gain():
    tone = sine(-50, 440, 16000, 1)
    assert choose_gain_db(tone, 16000, None) == 0
    for value in (np.nan, np.inf):
        tone[7] = value
        assert choose_gain_db(tone, 16000, -16.0) == 0


@pytest.mark.parametrize("loudness", [0.0, -16.0])
def test_nothing_clips(loudness):
    """Whatever is in [-1, 1], also where all values are at its ends."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=8000)
    for waveform in (
        np.sign(noise),
        np.resize([1.0, 1.0, -1.0, -1.0], 8000),
        noise / 9,
        np.ones(3),
        noise**9 / 1e6,
        noise / 1e5,
    ):
        waveform = waveform.clip(-1, 1)
        gain_db = choose_gain_db(waveform, 16000, loudness)
        stored = written(waveform, gain_db)
        assert np.abs(stored).max() <= 10 ** (-1 / 20) + 2**-15 and true_peak(stored) <= -0.99
