"""The vocoder's initial weights and its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from its_jax.audio.mel import image_to_mel
from its_jax.tiny.data import items
from its_jax.tiny.recipe import canvas
from its_jax.tiny.training import vocoder


@pytest.fixture(scope="module")
def initial():
    return vocoder.initial_vocoder()


def test_the_vocoder_begins_as_a_bank_of_oscillators(initial):
    """The untrained vocoder nearly reproduces spectrograms, even loud images."""
    spectrograms = np.concatenate([items.make_pictures("train", 2), items.make_spectrograms("train", 2)])
    spectrograms = spectrograms / np.float32(255)
    waveform = initial(image_to_mel(spectrograms, canvas.MEL))
    assert waveform.shape == (4, canvas.NUM_SAMPLES)
    assert np.abs(items.to_spectrogram(waveform) - spectrograms).mean() < 0.08


def test_centered_parameters_describe_the_same_vocoder(initial):
    graph, params = nnx.split(initial)
    log_mels = image_to_mel(items.make_pictures("train", 1)[:, :, :64] / np.float32(255), canvas.MEL)
    centered = vocoder.center(params)
    black = jnp.full((1, 7, canvas.HEIGHT), canvas.MEL.log_min)
    first = nnx.merge(graph, params).conv_pre(black)[0, 3]
    np.testing.assert_allclose(first, centered["conv_pre"]["bias"][...], atol=1e-4)
    back = vocoder.uncenter(centered)
    np.testing.assert_allclose(nnx.merge(graph, back)(log_mels), nnx.merge(graph, params)(log_mels), atol=1e-5)


def test_silence_matches_black_in_the_loss():
    black = jnp.full((1, 8, canvas.HEIGHT), canvas.MEL.log_min)
    silence = jnp.zeros((1, 8 * canvas.MEL.hop_length))
    assert (vocoder.floored_log_mel(silence, black) == black).all()


def test_silence_in_place_of_sound_has_a_gradient():
    sound = jnp.full((1, 8, canvas.HEIGHT), canvas.MEL.log_min + 1)
    silence = jnp.zeros((1, 8 * canvas.MEL.hop_length))
    gradient = jax.grad(lambda x: vocoder.floored_log_mel(silence + x, sound).sum())(1e-6)
    assert gradient != 0
