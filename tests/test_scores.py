"""The table of the embedded models' quality."""

import numpy as np

from its_jax.tiny import data, scores


def test_figures_are_means_over_all_and_by_class():
    n = 2 * len(data.SUBJECTS)
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
    means = scores.figures(result)
    assert (means["picture"], means["sound"], means["both"], means["sound_griffin_lim"]) == (0.5, 0.5, 0.25, 1.0)
    assert means["error_mean"] == 0.2 and means["vocoder_error"] == round(23 / 48, 4)
    assert means["by_subject"][data.SUBJECTS[0]] == {"picture": 0.5, "sound": 1.0, "both": 0.5}
    assert means["by_sound"][data.SOUNDS[0]] == {"picture": 1.0, "sound": 0.5, "both": 0.5}
