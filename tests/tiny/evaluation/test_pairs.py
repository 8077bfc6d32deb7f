"""Samples for the table of the embedded models' quality: which are asked for, and that they are kept."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from its_jax.pipeline import decoding
from its_jax.tiny.data import items
from its_jax.tiny.evaluation import pairs

CONFIG = Path(__file__).parents[2] / "configs" / "default.py"
SETTINGS = runpy.run_path(str(CONFIG))["get_config"]().to_dict()


class FakeSampler:
    """Makes canvases that hold the seed of their settings."""

    batch_size = 3
    image = audio = SimpleNamespace(identity="0123456789ab", vae=None, vocoder=None)
    mel = None

    def __init__(self):
        self.made = []

    def __call__(self, batch):
        self.made += batch
        return [
            SimpleNamespace(
                spectrogram=np.full((2, 4), settings.seed % 256 / 255, np.float32),
                latents=np.zeros((1, 1, 4)),
                waveform=np.zeros(8),
            )
            for settings in batch
        ]


def test_samples_are_made_once_and_for_one_set_of_settings(tmp_path):
    wanted = [(0, 1, seed) for seed in range(4)]
    first = FakeSampler()
    samples = pairs.Store(tmp_path, first, SETTINGS).samples("fused", wanted)
    assert len(first.made) == 4 and samples["spectrogram"].shape == (4, 2, 4)
    again, other = FakeSampler(), FakeSampler()
    kept = pairs.Store(tmp_path, again, SETTINGS).samples("fused", wanted)
    np.testing.assert_array_equal(kept["spectrogram"], samples["spectrogram"])
    assert not again.made
    pairs.Store(tmp_path, other, SETTINGS | {"num_steps": 3}).samples("fused", wanted)
    assert len(other.made) == 4


@pytest.mark.parametrize(("kind", "weights"), [("fused", (0.6, 0.4)), ("image", (1.0, 0.0)), ("audio", (0.0, 1.0))])
def test_prompts_are_those_of_the_classes(kind, weights):
    settings = SETTINGS | {term: SETTINGS[term] | {"weight": w} for term, w in (("image", 0.6), ("audio", 0.4))}
    castle, frog = items.SUBJECTS.index("castle"), items.SOUNDS.index("frog")
    one = pairs.sample_settings(settings, castle, frog, 2, kind)
    assert "castle" in one.terms["image"].prompt and "frog" in one.terms["audio"].prompt
    assert (one.terms["image"].weight, one.terms["audio"].weight) == weights
    assert one.seed != pairs.sample_settings(settings, castle, frog, 3, kind).seed


def test_a_blend_takes_another_single_sample_for_each_partner(monkeypatch):
    singles = 12
    alone = {
        kind: {"spectrogram": np.arange(144, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 4), np.uint8)}
        for kind in ("image", "audio")
    }
    monkeypatch.setattr(decoding, "encode_image", lambda vae, picture: picture[:, :1, :1])
    monkeypatch.setattr(decoding, "vocode", lambda vocoder, spectrogram, *_: spectrogram.reshape(len(spectrogram), -1))
    all_pairs = [(subject, sound, 0) for subject in range(12) for sound in range(12)]
    blends = pairs.blended(FakeSampler(), alone, all_pairs, singles, lambda a, b: a)
    taken = blends["spectrogram"][:, 0, 0]
    assert len(set(taken)) == 144 and all(taken // singles == blends["subject"])
    blends = pairs.blended(FakeSampler(), alone, all_pairs, singles, lambda a, b: b)
    taken = blends["spectrogram"][:, 0, 0]
    assert len(set(taken)) == 144 and all(taken // singles == blends["sound"])
