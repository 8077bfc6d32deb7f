"""The stages around denoising: prompts to tokens, latents to images and spectrograms, spectrograms to audio."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from its_jax.audio.mel import log_mel, mel_to_image
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.models.clip_text import CLIPTextConfig, CLIPTextModel
from its_jax.models.hifigan import Generator, VocoderConfig
from its_jax.models.vae import AutoencoderKL, VAEConfig
from its_jax.pipeline import decoding, prompts
from tests.helpers import model_folder
from tests.helpers.torch_twins import assert_equal, loaded, normal, torch_result

IDENTITY = VIEWS["identity"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    model_folder.save_tokenizer(folder)
    return transformers.CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def vaes():
    """Returns two VAEs with their PyTorch twins."""
    twins = [model_folder.small_vae(seed) for seed in (0, 1)]
    return [(loaded(AutoencoderKL, VAEConfig.from_dict(dict(twin.config)), twin), twin) for twin in twins]


@pytest.fixture(scope="module")
def vocoder():
    return loaded(Generator, VocoderConfig.from_dict(model_folder.VOCODER), model_folder.small_vocoder())


@pytest.fixture
def picture():
    """Returns the spectrogram of a hiss that falls in pitch, `[1, 12, 40]`."""
    fall = np.cumsum(normal(800)) * np.linspace(0, 0.1, 800) + normal(800, seed=1) * np.linspace(0.1, 0, 800)
    config = small_mel_config()
    return mel_to_image(log_mel(jnp.asarray(fall, jnp.float32)[None], config), config)


def small_mel_config(height=12):
    return decoding.mel_config(VocoderConfig.from_dict(model_folder.VOCODER), height)


def test_tokens_are_padded_and_cut_with_their_end_kept(tokenizer):
    ids = prompts.tokenize(tokenizer, ["a cat", "", "cat " * 80])
    start, end, cat = (tokenizer.convert_tokens_to_ids(t) for t in ("<|startoftext|>", "<|endoftext|>", "cat</w>"))
    assert ids.shape == (3, 77) and ids.dtype == np.int32
    assert ids[0, :3].tolist() == [start, tokenizer.convert_tokens_to_ids("a</w>"), cat]
    assert set(ids[0, 3:]) == set(ids[1, 1:]) == {end}
    assert ids[2].tolist() == [start] + [cat] * 75 + [end]


def test_the_warning_about_a_long_prompt_quotes_what_is_cut_off(tokenizer, caplog):
    prompts.warn_about_prompts(tokenizer, ["cat " * 75])
    assert not caplog.records
    prompts.warn_about_prompts(tokenizer, ["cat " * 75 + "dog a cat"])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "longer than 75 tokens: 'dog a cat' is cut off" in record.getMessage()


def test_the_warning_about_unknown_words_lists_the_vocabulary(tokenizer, caplog):
    vocabulary = frozenset({"cat", "dog", ",", "a"})
    prompts.warn_about_prompts(tokenizer, ["A cat, a Dog", ""], vocabulary=vocabulary)
    assert not caplog.records
    prompts.warn_about_prompts(tokenizer, ["a zebra, a 🐶 zebra"], vocabulary=vocabulary)
    (record,) = caplog.records
    assert "not trained on 'zebra', '🐶'; it knows: a cat dog" in record.getMessage()


def test_an_encoded_prompt_does_not_depend_on_the_others_of_its_batch(tokenizer):
    twin = model_folder.small_text_encoder(len(tokenizer))
    config = CLIPTextConfig.from_dict(twin.config.to_dict())
    encoder = loaded(CLIPTextModel, config, twin)
    ids = prompts.tokenize(tokenizer, ["", "a cat", "dog"])
    texts = prompts.encode_tokens(encoder, ids)
    assert texts.shape == (3, 77, model_folder.TEXT_WIDTH)
    np.testing.assert_allclose(texts[1], prompts.encode_tokens(encoder, ids[1:2])[0], atol=1e-5)


def test_the_image_and_the_spectrogram_have_a_decoder_each(vaes, highest_precision):
    (image_vae, image_twin), (audio_vae, audio_twin) = vaes
    latents = normal((2, 3, 8, 4))

    def decoded(twin):
        scaled = latents / twin.config.scaling_factor
        return torch_result(lambda x: (twin.decode(x).sample / 2 + 0.5).clamp(0, 1), scaled)

    spectrogram, (picture,) = decoding.decode(latents, (image_vae, audio_vae), ((1, IDENTITY), (0, IDENTITY)))
    assert picture.shape == (2, 6, 16, 3) and spectrogram.shape == (2, 6, 16)
    assert_equal(picture, decoded(image_twin))
    np.testing.assert_allclose(spectrogram, decoded(audio_twin).mean(-1), atol=0.501 / 255 + 2e-5)
    spectrogram, (picture,) = decoded_by_one(latents, image_vae)
    np.testing.assert_allclose(spectrogram, picture.mean(-1), atol=0.501 / 255)


def decoded_by_one(latents, vae, *views, **options):
    """Returns the spectrogram, and the images in the layout of these views."""
    return decoding.decode(latents, (vae,), tuple((0, view) for view in (IDENTITY, *(views or [IDENTITY]))), **options)


def test_the_spectrogram_has_256_levels(vaes):
    spectrogram, _ = decoded_by_one(normal((2, 3, 8, 4)), vaes[0][0])
    np.testing.assert_allclose(spectrogram, np.rint(np.asarray(spectrogram) * 255) / 255, rtol=0, atol=1e-7)


def test_each_image_is_decoded_in_the_view_of_its_model(vaes):
    latents, vae = normal((1, 4, 8, 4)), vaes[0][0]
    views = VIEWS["block_rearrange"], VIEWS["rotate_180"]
    spectrogram, pictures = decoded_by_one(latents, vae, *views)
    assert [picture.shape for picture in pictures] == [(1, 16, 8, 3), (1, 8, 16, 3)]
    assert spectrogram.shape == (1, 8, 16)
    for picture, view in zip(pictures, views, strict=True):
        np.testing.assert_allclose(picture, decoded_by_one(view.apply(latents), vae)[1][0], atol=1e-5)
    np.testing.assert_array_equal(spectrogram, decoded_by_one(latents, vae)[0])


def test_cutoff_latent_drops_four_columns_before_decoding(vaes):
    latents, vae = normal((1, 3, 8, 4)), vaes[0][0]
    spectrogram, (picture,) = decoded_by_one(latents, vae, cutoff=True)
    assert picture.shape == (1, 6, 8, 3) and spectrogram.shape == (1, 6, 8)
    np.testing.assert_allclose(picture, decoded_by_one(latents[:, :, :4], vae)[1][0], atol=1e-5)


def test_a_loop_gives_the_same_image_and_audio_wherever_it_is_cut(vaes, vocoder):
    latents, vae = normal((1, 6, 40, 4)), vaes[0][0]
    turned, view = jnp.roll(latents, 13, axis=2), VIEWS["flip_horizontal"]
    spectrogram, pictures = decoded_by_one(latents, vae, IDENTITY, view, wrap=True)
    also, others = decoded_by_one(turned, vae, IDENTITY, view, wrap=True)
    assert pictures[1].shape == (1, 12, 80, 3)
    # Its group norms take a mean over the canvas, in which some columns count twice.
    np.testing.assert_allclose(jnp.roll(pictures[0], 26, axis=2), others[0], atol=0.05)
    np.testing.assert_allclose(jnp.roll(pictures[1], -26, axis=2), others[1], atol=0.05)
    np.testing.assert_allclose(jnp.roll(spectrogram, 26, axis=2), also, atol=0.05)
    config = small_mel_config()
    sounds = [decoding.vocode(vocoder, jnp.roll(spectrogram, k, axis=2), config, "hifigan", wrap=True) for k in (0, 26)]
    np.testing.assert_allclose(jnp.roll(sounds[0], 26 * config.hop_length, axis=1), sounds[1], atol=1e-5)


def test_an_image_is_encoded_as_the_scaled_mean(vaes, highest_precision):
    vae, twin = vaes[0]
    picture = np.random.default_rng(0).uniform(size=(1, 6, 8, 3)).astype(np.float32)
    scale = twin.config.scaling_factor
    expected = torch_result(lambda x: twin.encode(2 * x - 1).latent_dist.mean * scale, picture)
    np.testing.assert_allclose(decoding.encode_image(vae, picture), expected, atol=2e-5)


@pytest.mark.parametrize(("width", "samples", "kept"), [(1024, 163840, 158720), (512, 81920, 76800), (40, 999, 200)])
def test_crop_image_shortens_the_image_and_the_audio_alike(width, samples, kept):
    picture, waveform = decoding.crop(np.zeros((4, width, 3)), np.arange(samples))
    assert picture.shape == (4, width - 32, 3)
    assert kept == samples - int(32 / width * samples)
    np.testing.assert_array_equal(waveform, np.arange(kept))


def test_the_mel_front_end_is_that_of_the_vocoder():
    config = small_mel_config()
    assert (config.n_mels, config.hop_length, config.win_length, config.n_fft) == (12, 20, 128, 256)
    assert (config.fmin, config.fmax) == (0, 8000)  # no fmax: half the sampling rate
    with pytest.raises(UserError, match="height=16: the vocoder has 12 mel bands"):
        small_mel_config(height=16)


def test_the_width_of_the_spectrogram_decides_the_length_of_the_audio(vocoder, picture):
    config = small_mel_config()
    for method in ("hifigan", "griffin_lim"):
        waveform = decoding.vocode(vocoder, picture, config, method)
        assert waveform.shape == (1, 40 * config.hop_length) and waveform.dtype == jnp.float32
        assert np.abs(waveform).max() <= 1 and np.std(waveform) > 1e-3


def test_the_spectrogram_of_griffin_lim_audio_is_the_original(vocoder, picture):
    config = small_mel_config()
    waveform = decoding.vocode(vocoder, picture, config, "griffin_lim")
    heard = mel_to_image(log_mel(waveform, config), config)
    inside = np.s_[..., 3:-3]
    assert np.abs(heard - picture)[inside].mean() < 0.1 * np.abs(picture[:, ::-1] - picture)[inside].mean()
