"""The scores of samples."""

import jax.numpy as jnp
import numpy as np
import pytest

from its_jax import pretrained
from its_jax.pipeline import decoding
from its_jax.tiny import judges
from its_jax.tiny.data import items
from its_jax.tiny.evaluation import scores
from its_jax.tiny.recipe import canvas


def test_summaries_are_means_over_all_samples_and_by_class():
    n = 2 * len(items.SUBJECTS)
    number = np.arange(n)
    result = {
        "subject": number // 2,
        "sound": number % 12,
        "picture_right": number % 2 == 0,
        "sound_right": number < 12,
        "sound_right_griffin_lim": np.ones(n, bool),
        "error_picture_model": np.full(n, 0.1),
        "error_sound_model": np.full(n, 0.3),
        "vocoder_error": number / n,
        "griffin_lim_error": np.zeros(n),
    }
    means = scores.summarize(result)
    assert (means["picture"], means["sound"], means["both"], means["sound_griffin_lim"]) == (0.5, 0.5, 0.25, 1.0)
    assert means["error_mean"] == 0.2 and means["vocoder_error"] == round(23 / 48, 4)
    assert means["by_subject"][items.SUBJECTS[0]] == {"picture": 0.5, "sound": 1.0, "both": 0.5}
    assert means["by_sound"][items.SOUNDS[0]] == {"picture": 1.0, "sound": 0.5, "both": 0.5}


@pytest.mark.slow
def test_held_out_sounds_are_recognized_and_likely_under_their_own_caption(tmp_path, monkeypatch):
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path))
    audio = pretrained.load_model("tiny/audio", dtype=jnp.float32)
    waveforms = items.make_waveforms("held_out", range(12))
    spectrograms = np.asarray(items.to_spectrogram(waveforms))
    samples = {
        "spectrogram": items.to_bytes(spectrograms),
        "waveform": waveforms,
        "latents": np.asarray(decoding.encode_image(audio.vae, np.repeat(spectrograms[..., None], 3, axis=-1))),
        "subject": items.labels(12),
        "sound": items.labels(12),
    }
    judge = {kind: judges.load(kind) for kind in judges.KINDS}
    result = scores.evaluate_samples({"image": audio, "audio": audio}, canvas.MEL, judge, samples)
    assert result["sound_right"].sum() >= 11 and result["sound_right_griffin_lim"].sum() >= 11
    assert result["vocoder_error"].max() < 0.01  # The waveforms are synthesized, not vocoded.
    assert 0.001 < result["griffin_lim_error"].mean() < 0.02
    mistaken = scores.denoising_error(audio, samples | {"sound": np.roll(items.labels(12), 1)}, "audio")
    assert np.mean(result["error_sound_model"] < mistaken) > 0.8
