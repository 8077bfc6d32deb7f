"""Looping pictures with a playhead."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from its_jax.errors import UserError
from its_jax.media.animations import write_animation
from its_jax.media.text_layout import ACCENT


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_the_playhead_crosses_the_image_in_the_time_of_the_sound(tmp_path, suffix):
    path = tmp_path / f"tree.{suffix}"
    write_animation(path, np.zeros((32, 256)), 1.5, "a tree", "bell ringing", width=360, fps=8)
    with Image.open(path) as animation:
        assert animation.info["loop"] == 0  # for ever
        frames = [
            (np.asarray(frame.convert("RGB"), int), frame.info["duration"])  # known once the frame is read
            for frame in ImageSequence.Iterator(animation)
        ]
    assert len(frames) == 12 and sum(duration for _, duration in frames) == pytest.approx(1500, abs=60)
    # The column that is nearest to the playhead's color moves from left to right by equal steps.
    near = [np.abs(frame[60:100] - ACCENT).sum(-1).mean(0).argmin() for frame, _ in frames]
    steps = np.diff(near)
    assert frames[0][0].shape[1] == 360 and near[0] < 30 and near[-1] > 290
    assert steps.min() > 0 and steps.max() - steps.min() <= 2


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match="tree.png: an animation is a file whose name ends in .webp or .gif"):
        write_animation(tmp_path / "tree.png", np.zeros((32, 256)), 1.0, "a tree", "bell ringing")
    assert not list(tmp_path.iterdir())
