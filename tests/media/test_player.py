"""Players of notebooks."""

import io

import numpy as np
from PIL import Image

from its_jax.media import sounds
from its_jax.media.player import player


def test_a_player_is_as_wide_as_its_picture_and_shows_the_duration():
    png = io.BytesIO()
    Image.new("L", (512, 128)).save(png, "PNG")
    shown = player("a <b> | rain", png.getvalue(), sounds.wav(np.zeros(40_000, np.float32), 16_000, {}))
    assert 'style="margin: 0 0 1em; width: 512px; max-width: 100%"' in shown
    assert "a &lt;b&gt; | rain · 2.5 s" in shown
    assert shown.count("width: 100%") == 3  # max-width of the figure, picture, player
