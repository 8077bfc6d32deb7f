"""Files that a sample starts from: files of any kind and size, the latent that they give, the part that is kept."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from PIL import Image

from its_jax.audio.mel import log_mel, mel_to_image
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.generate import batches
from its_jax.media import ffmpeg, images, sounds
from its_jax.models.hifigan import VocoderConfig
from its_jax.models.vae import AutoencoderKL, VAEConfig
from its_jax.pipeline import decoding, init_latent
from its_jax.pipeline.pipeline import Pipeline
from its_jax.settings.ids import sample_id
from tests.helpers import model_folder
from tests.helpers.torch_twins import loaded

MEL = decoding.mel_config(VocoderConfig.from_dict(model_folder.VOCODER), 12)


@pytest.fixture(scope="module")
def vae():
    twin = model_folder.small_vae()
    return loaded(AutoencoderKL, VAEConfig.from_dict(dict(twin.config)), twin)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tiff"])
def test_an_image_of_any_format_fills_the_canvas(tmp_path, name):
    """An image of another shape is cropped, not squeezed: a circle remains a circle."""
    y, x = np.mgrid[:120, :90]
    circle = np.hypot(x - 45, y - 60) < 15
    Image.fromarray(np.where(circle, 255, 0).astype(np.uint8)).save(tmp_path / name)
    picture = images.read_image(tmp_path / name, 24, 48)
    assert picture.shape == (24, 48, 3) and picture.dtype == np.float32
    rows, columns = (np.ptp(np.flatnonzero(picture.mean(-1).max(axis) > 0.5)) for axis in (1, 0))
    assert abs(rows - columns) <= 1 and 14 <= columns <= 17


def test_transparent_pixels_are_black(tmp_path):
    for alpha in (255, 51, 0):
        Image.fromarray(np.array([[[255, 255, 255, alpha]]], np.uint8)).save(tmp_path / "a.png")
        np.testing.assert_allclose(images.read_image(tmp_path / "a.png", 8, 8), alpha / 255, atol=1e-3)


@pytest.mark.parametrize(
    ("half", "name"),
    [
        (np.uint16(32768), "a.png"),
        (np.uint16(32768), "a.tiff"),
        (np.int32(128), "a.tiff"),
        (np.int32(32768), "a.tiff"),
        (np.float32(0.5), "a.tiff"),
        (np.float32(128), "a.tiff"),
    ],
)
def test_gray_of_any_depth_is_read(tmp_path, half, name):
    Image.fromarray(np.full((8, 8), half)).save(tmp_path / name)
    np.testing.assert_allclose(images.read_image(tmp_path / name, 8, 8), 0.5, atol=0.01)


def test_values_that_are_not_gray_are_reported(tmp_path):
    Image.fromarray(np.array([[-1.0, 1e6]], np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(
        UserError, match="a.tiff: cannot read: its values are -1 to 1e.06, which is not a shade of gray"
    ):
        images.read_image(tmp_path / "a.tiff", 8, 8)


def test_an_image_beyond_the_limit_of_pillow_is_reported(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match="a.png: cannot read: .*64 pixels"):
        images.read_image(tmp_path / "a.png", 8, 8)


def test_a_tilde_stands_for_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    assert images.read_image("~/a.png", 4, 4).shape == (4, 4, 3)
    assert sounds.read_audio("~/a.wav", 16000).shape == (100,)


def test_the_audio_of_an_m4a_is_read(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, tone], axis=1), 44100)
    ffmpeg.run_ffmpeg("-i", str(tmp_path / "a.wav"), str(tmp_path / "a.m4a"))
    waveform = sounds.read_audio(tmp_path / "a.m4a", 16000)
    assert abs(len(waveform) - 16000) < 1500 and abs(waveform[4000:12000].std() - 0.5 / 2**0.5) < 0.02


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_audio_of_any_format_is_resampled(tmp_path, name):
    t = np.arange(44100) / 44100
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    soundfile.write(tmp_path / name, np.stack([tone, 0 * tone], axis=1), 44100)
    waveform = sounds.read_audio(tmp_path / name, 16000)
    assert abs(len(waveform) - 16000) < 1500 and waveform.dtype == np.float32  # mp3 adds silence
    spectrum = np.abs(np.fft.rfft(waveform[2000:14000] * np.hanning(12000)))
    assert abs(np.argmax(spectrum) * 16000 / 12000 - 440) < 2
    assert abs(np.abs(waveform[4000:12000]).max() - 0.25) < 0.02  # the mean of two channels


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "cannot read"), (b"no sound", "cannot read"), (None, "No such file")]
)
def test_a_file_that_is_neither_audio_nor_an_image_is_reported(tmp_path, content, message):
    path = tmp_path / "file.xyz"
    if content is not None:
        path.write_bytes(content)
    for read in (lambda: sounds.read_audio(path, 16000), lambda: images.read_image(path, 8, 8)):
        with pytest.raises(UserError, match=f"file.xyz.*{message}"):
            read()


def test_empty_audio_is_reported(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(UserError, match="holds no sound"):
        sounds.read_audio(tmp_path / "empty.wav", 16000)


@pytest.mark.parametrize("view", ["identity", "rotate_90", "block_rearrange"])
def test_the_view_of_the_latent_shows_the_image_upright(vae, tmp_path, view):
    seen = VIEWS[view].apply(jnp.zeros((1, 12, 48, 3))).shape[1:3]
    content = np.random.default_rng(0).integers(0, 256, (*seen, 3), dtype=np.uint8)
    Image.fromarray(content).save(tmp_path / "a.png")
    z = init_latent.from_image(str(tmp_path / "a.png"), vae, VIEWS[view], 12, 48)
    assert z.shape == (6, 24, 4)
    expected = decoding.encode_image(vae, content[None] / np.float32(255))
    np.testing.assert_allclose(VIEWS[view].apply(z[None]), expected, atol=1e-5)


@pytest.mark.parametrize("samples", [300, 960, 2000])
def test_audio_is_cut_or_padded_with_silence(vae, tmp_path, samples):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, 16000, subtype="FLOAT")
    z = init_latent.from_audio(str(tmp_path / "a.wav"), vae, MEL, 48)
    whole = np.pad(sound, (0, 2000))[None, :960]
    picture = np.repeat(np.asarray(mel_to_image(log_mel(whole, MEL), MEL))[..., None], 3, -1)
    np.testing.assert_allclose(z, decoding.encode_image(vae, picture)[0], atol=1e-4)


def test_kept_cells_are_those_that_a_range_touches():
    # A column is 20 samples of 16 kHz, a cell two columns.
    mask = init_latent.keep_mask([(0.005, 0.01, "s")], MEL, 12, 48, 2)
    assert mask.shape == (6, 24, 1)
    np.testing.assert_array_equal(mask[..., 0].all(axis=0), (np.arange(24) >= 2) & (np.arange(24) < 4))
    high = init_latent.keep_mask([(4000.0, 8000.0, "Hz")], MEL, 12, 48, 2)[..., 0]
    assert high[0].all() and not high[-1].any() and (high == high[:, :1]).all()
    both = init_latent.keep_mask([(0.005, 0.01, "s"), (4000.0, 8000.0, "Hz")], MEL, 12, 48, 2)[..., 0]
    np.testing.assert_array_equal(both, mask[..., 0] | high)
    assert not init_latent.keep_mask([], MEL, 12, 48, 2).any()


@pytest.mark.parametrize(("low", "high", "unit"), [(1.0, 2.0, "s"), (9000.0, 9500.0, "Hz")])
def test_a_range_outside_of_the_canvas_is_reported(low, high, unit):
    with pytest.raises(UserError, match=f"keep: {low:g}-{high:g}{unit} lies outside"):
        init_latent.keep_mask([(low, high, unit)], MEL, 12, 48, 2)


# Several files in one batch


def write_images(folder, count=3):
    """Writes images of different contents and sizes, and returns their paths."""
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        content = np.random.default_rng(i).integers(0, 256, (20 + 9 * i, 50 + 7 * i, 3), dtype=np.uint8)
        Image.fromarray(content).save(path)
    return paths


def write_sounds(folder, count=3):
    """Writes sounds of different contents and lengths, and returns their paths."""
    paths = [folder / f"{i}.wav" for i in range(count)]
    for i, path in enumerate(paths):
        soundfile.write(path, np.random.default_rng(i).uniform(-0.5, 0.5, 700 + 300 * i), 16000)
    return paths


@pytest.mark.parametrize(("setting", "write"), [("init_image", write_images), ("init_audio", write_sounds)])
def test_samples_of_different_files_share_a_batch_and_have_the_bits_of_their_own(
    quick_programs, expand, tmp_path, setting, write
):
    keeps = "", "0-0.01s", "4000-8000Hz"
    requested = []
    for path, keep in zip(write(tmp_path), keeps, strict=True):
        requested += expand({setting: str(path), "keep": keep}, strength=0.75, num_samples=1)
    (group,) = batches.program_groups({sample_id(settings): settings for settings in requested})
    assert len(batches.batch_representatives(group)) == 1
    program = Pipeline().compile(requested[0], pending=3, batch_size=3)
    together = program(requested)
    for i, settings in enumerate(requested):
        alone = program([settings], batch_index=i)[0]
        np.testing.assert_array_equal(together[i].latents, alone.latents)
        np.testing.assert_array_equal(together[i].image, alone.image)
        np.testing.assert_array_equal(together[i].audio, alone.audio)
    # Each sample keeps what its own file has, and no other sample has it.
    for i, settings in enumerate(requested):
        mask, z = program.components.init_latents.load(settings)
        assert mask.any() == bool(keeps[i])
        kept = mask[..., 0]
        np.testing.assert_array_equal(together[i].latents[kept], z[kept])
        assert all(not np.isclose(other.latents, z).all() for other in together)
        if i:
            assert not np.isclose(together[i - 1].latents[kept], z[kept], atol=1e-3).all()


def test_a_file_that_has_changed_since_its_digest_was_taken_is_refused(quick_programs, expand, tmp_path):
    one, other, _ = write_images(tmp_path)
    (settings,) = expand({"init_image": str(one)}, num_samples=1)
    shutil.copy(other, one)
    program = Pipeline().compile(settings, batch_size=1)
    with pytest.raises(UserError, match="0.png: has changed since this run began"):
        program.check_init_file(settings)
