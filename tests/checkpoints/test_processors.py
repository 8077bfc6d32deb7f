"""The inputs of CLIP and CLAP equal those of transformers' processors."""

import matplotlib.cbook
import numpy as np
import pytest
import scipy.signal
from PIL import Image
from transformers.models.clap.feature_extraction_clap import ClapFeatureExtractor as TransformersExtractor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from its_jax.checkpoints.processors import ClapFeatureExtractor, CLIPImageProcessor
from its_jax.errors import UserError
from its_jax.scoring.clip_clap import square_windows
from its_jax.tiny.data import pictures, sounds

PREPROCESSOR = dict(feature_size=64, sampling_rate=48000, hop_length=480, max_length_s=10, fft_window_size=1024,
                    frequency_min=50, frequency_max=14000, truncation="rand_trunc", padding="repeatpad")  # fmt: skip


@pytest.mark.parametrize("shape", [(256, 256), (128, 512), (300, 225), (224, 224), (100, 100)])
def test_images_are_processed_as_by_transformers(shape):
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (shape[0] // 4, shape[1] // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    picture = np.pad(picture, ((0, shape[0] % 4), (0, shape[1] % 4), (0, 0)))
    expected = CLIPImageProcessorPil()(picture, return_tensors="np").pixel_values[0]
    np.testing.assert_allclose(CLIPImageProcessor()(picture), expected.transpose(1, 2, 0), rtol=0, atol=1e-5)


def test_a_photograph_is_processed_as_by_transformers():
    """Compares a portrait of Grace Hopper with 512 x 600 pixels, which matplotlib contains."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file, Image.open(file) as image:
        picture = np.asarray(image)
    assert picture.ndim == 3 and min(picture.shape[:2]) > 224
    expected = CLIPImageProcessorPil()(picture, return_tensors="np").pixel_values[0]
    np.testing.assert_allclose(CLIPImageProcessor()(picture), expected.transpose(1, 2, 0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seconds", [10.0, 5.12, 2.9, 0.3])
def test_audio_is_processed_as_by_transformers(seconds):
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * 48000)) / 48000
    waveform = (np.sin(2 * np.pi * (300 + 2000 * t) * t) * 0.5 + rng.normal(0, 0.01, len(t))).astype(np.float32)
    expected = TransformersExtractor(**PREPROCESSOR)(waveform, sampling_rate=48000, return_tensors="np")
    found = ClapFeatureExtractor()(waveform)
    assert found.shape == (1001, 64) and found.std() > 5
    np.testing.assert_allclose(found, expected.input_features[0, 0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("subject", pictures.SUBJECTS)
def test_windows_of_drawn_images_are_processed_as_by_transformers(subject):
    """Compares windows as in `its_jax.scoring.clip_clap`: gray, 128 pixels high, enlarged for CLIP."""
    gray = pictures.draw(subject, np.random.default_rng(0))
    for window in square_windows((gray * 255).round().astype(np.uint8))[::8]:
        square = np.repeat(window[..., None], 3, axis=-1)
        expected = CLIPImageProcessorPil()(square, return_tensors="np").pixel_values[0]
        np.testing.assert_allclose(CLIPImageProcessor()(square), expected.transpose(1, 2, 0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sound", sounds.SOUNDS)
def test_synthesized_audio_is_processed_as_by_transformers(sound):
    """Compares waveforms as in `its_jax.scoring.clip_clap`: resampled from 16 to 48 kHz, with a peak of 1."""
    waveform = scipy.signal.resample_poly(sounds.synthesize(sound, np.random.default_rng(0)), 3, 1)
    waveform /= np.abs(waveform).max()
    expected = TransformersExtractor(**PREPROCESSOR)(waveform, sampling_rate=48000, return_tensors="np")
    np.testing.assert_allclose(ClapFeatureExtractor()(waveform), expected.input_features[0, 0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("side", [{}, {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}])
def test_old_and_new_processor_configs_are_read(side):
    old = dict(size=224, crop_size=224, resample=3, do_resize=True, do_center_crop=True, do_normalize=True,
               image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711],
               feature_extractor_type="CLIPFeatureExtractor")  # fmt: skip
    assert CLIPImageProcessor.from_dict(old | side) == CLIPImageProcessor()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"crop_size": 200}, "crop_size=200"),
        ({"do_resize": False}, "do_resize"),
        ({"size": {"height": 2, "width": 3}}, "size"),
    ],
)
def test_unsupported_image_processors_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        CLIPImageProcessor.from_dict({"size": 224, "crop_size": 224} | change)


def test_a_section_of_longer_audio_is_used():
    waveform = np.random.default_rng(0).normal(0, 0.1, 12 * 48000)
    expected = ClapFeatureExtractor()(waveform[48000:][: 10 * 48000])
    np.testing.assert_array_equal(ClapFeatureExtractor()(waveform, start=48000), expected)


@pytest.mark.parametrize("change", [{"truncation": "fusion"}, {"padding": "pad"}, {"top_db": 80}, {"spec_augment": 1}])
def test_unsupported_audio_processors_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        ClapFeatureExtractor.from_dict(PREPROCESSOR | change)
    assert ClapFeatureExtractor.from_dict(PREPROCESSOR) == ClapFeatureExtractor()
