"""The program that synthesizes sounds: bounds that the models rely on, and properties of single sounds."""

import numpy as np
import pytest
import scipy.signal

from its_jax.errors import UserError
from its_jax.tiny.data.sounds import SOUNDS, caption, synthesize

RATE = 16000
SEEDS = range(3)


def spectrogram(waveform):
    """Returns frequencies `[bins]`, and magnitudes `[bins, frames]` every 16 ms."""
    frequencies, _, spectrum = scipy.signal.stft(waveform, RATE, nperseg=1024, noverlap=768)
    return frequencies, np.abs(spectrum)


def sound(name, seed=0, **sizes):
    return synthesize(name, np.random.default_rng(seed), **sizes)


@pytest.mark.parametrize("name", SOUNDS)
def test_the_seed_alone_decides_the_waveform(name):
    for seed in SEEDS:
        waveform = sound(name, seed)
        assert waveform.shape == (81920,) and waveform.dtype == np.float32
        assert 0.0374 < np.abs(waveform).max() < 0.1191
        assert np.array_equal(waveform, sound(name, seed))
        assert not np.allclose(waveform, sound(name, seed + 1))


@pytest.mark.parametrize("name", SOUNDS)
def test_every_crop_contains_events_and_black(name):
    for seed in SEEDS:
        waveform = sound(name, seed)
        crops = np.abs(waveform.reshape(4, -1)).max(axis=1)  # of 1.28 s
        assert crops.min() > 0.05 * crops.max()
        _, magnitude = spectrogram(waveform)
        assert (magnitude < 1e-4 * magnitude.max()).mean() > 0.25


@pytest.mark.parametrize("name", SOUNDS)
def test_waveforms_can_have_other_lengths_and_sampling_rates(name):
    waveform = sound(name, num_samples=5000, sampling_rate=8000)
    assert waveform.shape == (5000,) and np.isfinite(waveform).all()


def test_captions_of_the_twelve_sounds_differ_and_have_few_words():
    rng = np.random.default_rng(0)
    captions = {name: {caption(name, rng) for _ in range(100)} for name in SOUNDS}
    assert len(SOUNDS) == 12
    assert all(len(texts) == 9 for texts in captions.values())  # three phrases in three forms
    words = {word for texts in captions.values() for text in texts for word in text.split()}
    assert len(words) < 60 and all(word.isalpha() and word.islower() for word in words)
    assert sum(map(len, captions.values())) == len(set().union(*captions.values()))


@pytest.mark.parametrize("function", [caption, synthesize])
def test_an_unknown_sound_raises_an_error_that_names_the_known_ones(function):
    with pytest.raises(UserError, match=r"'bels'.*bell, birds"):
        function("bels", np.random.default_rng(0))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bell_is_struck_and_decays(seed):
    _, magnitude = spectrogram(sound("bell", seed))
    loudness = magnitude.sum(axis=0)
    rises, falls = np.diff(loudness) > 0.01 * loudness.max(), np.diff(loudness) < 0
    assert falls.sum() > 2 * rises.sum()
    assert np.diff(loudness).max() > -1.5 * np.diff(loudness).min()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_siren_sweeps_and_a_train_whistle_stays(seed):
    def octaves_covered(name):
        frequencies, magnitude = spectrogram(sound(name, seed))
        magnitude = magnitude[:, magnitude.sum(axis=0) > 0.2 * magnitude.sum(axis=0).max()]
        centroid = frequencies @ magnitude / magnitude.sum(axis=0)
        return np.log2(np.quantile(centroid, 0.9) / np.quantile(centroid, 0.1))

    assert octaves_covered("siren") > 0.8 > 0.2 > octaves_covered("train")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_pitch_of_lasers_and_barks_falls(seed):
    for name in ("laser", "dog"):
        frequencies, magnitude = spectrogram(sound(name, seed))
        loud = magnitude.sum(axis=0) > 0.2 * magnitude.sum(axis=0).max()
        centroid = frequencies @ magnitude / np.maximum(magnitude.sum(axis=0), 1e-9)
        assert np.diff(centroid)[loud[1:] & loud[:-1]].mean() < 0


@pytest.mark.parametrize("seed", SEEDS)
def test_birds_are_high_and_engines_are_low(seed):
    def share_above(name, hz):
        frequencies, magnitude = spectrogram(sound(name, seed))
        energy = (magnitude**2).sum(axis=1)
        return energy[frequencies > hz].sum() / energy.sum()

    assert share_above("birds", 1000) > 0.95
    assert share_above("engine", 1000) < 0.25


@pytest.mark.parametrize("seed", SEEDS)
def test_clocks_tick_evenly_and_rain_does_not(seed):
    def unevenness(name):
        onsets = scipy.signal.find_peaks(np.abs(sound(name, seed)), height=0.0075, distance=RATE // 10)[0]
        return np.diff(onsets).std() / np.diff(onsets).mean()

    assert unevenness("clock") < 0.05 < 0.2 < unevenness("rain")
