"""The samples of the evaluation."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from its_jax.tiny.data import items
from its_jax.tiny.evaluation import pairs

CONFIG = Path(__file__).parents[3] / "configs" / "default.py"
SETTINGS = runpy.run_path(str(CONFIG))["get_config"]().to_dict()


class FakeProgram:
    """Generates canvases that contain the seed of their settings."""

    batch_size = 3
    components = SimpleNamespace(identities={"image": "0123456789ab", "audio": "ba9876543210"})

    def __init__(self):
        self.generated = []

    def __call__(self, batch):
        self.generated += batch
        return [
            SimpleNamespace(
                spectrogram=np.full((2, 4), settings.seed % 256 / 255, np.float32),
                latents=np.zeros((1, 1, 4)),
                audio=np.zeros(8),
            )
            for settings in batch
        ]


def test_samples_are_generated_once_for_one_set_of_settings(tmp_path):
    wanted = [(0, 1, seed) for seed in range(4)]
    first, second, other = FakeProgram(), FakeProgram(), FakeProgram()
    samples = pairs.SampleCache(tmp_path, first, SETTINGS).samples("fused", wanted)
    assert len(first.generated) == 4 and samples["spectrogram"].shape == (4, 2, 4)
    cached = pairs.SampleCache(tmp_path, second, SETTINGS).samples("fused", wanted)
    np.testing.assert_array_equal(cached["spectrogram"], samples["spectrogram"])
    assert not second.generated
    pairs.SampleCache(tmp_path, other, SETTINGS | {"num_steps": 3}).samples("fused", wanted)
    assert len(other.generated) == 4


@pytest.mark.parametrize(("kind", "weights"), [("fused", (0.6, 0.4)), ("image", (1.0, 0.0)), ("audio", (0.0, 1.0))])
def test_prompts_name_the_requested_classes(kind, weights):
    settings = SETTINGS | {term: SETTINGS[term] | {"weight": w} for term, w in (("image", 0.6), ("audio", 0.4))}
    castle, frog = items.SUBJECTS.index("castle"), items.SOUNDS.index("frog")
    sample = pairs.sample_settings(settings, (castle, frog, 2), kind)
    assert "castle" in sample.terms["image"].prompt and "frog" in sample.terms["audio"].prompt
    assert (sample.terms["image"].weight, sample.terms["audio"].weight) == weights
    assert sample.seed != pairs.sample_settings(settings, (castle, frog, 3), kind).seed


def test_every_blend_combines_different_samples():
    singles = 12
    all_pairs = [(subject, sound, 0) for subject in range(12) for sound in range(12)]
    images, audio = pairs.partners(all_pairs, singles)
    assert len(set(images)) == len(set(audio)) == 144
    np.testing.assert_array_equal(images // singles, [subject for subject, _, _ in all_pairs])
    np.testing.assert_array_equal(audio // singles, [sound for _, sound, _ in all_pairs])
