"""The embedded models beyond the paper's settings: any length, loops, files to start from, half precision."""

import jax
import numpy as np
import pytest
import scipy.signal
import soundfile
from PIL import Image

from its_jax import Pipeline
from its_jax.diffusion.windows import Windows
from its_jax.media import sounds
from its_jax.pipeline import decoding, init_latent
from its_jax.tiny.data import items
from tests.helpers.sample_settings import default_settings


@pytest.fixture(scope="module")
def generate():
    """Generates the first sample of configs/default.py with changes; returns its program and the sample.

    Only one of the eight devices is used, because each would generate a copy.
    """
    pipeline = Pipeline(devices=jax.local_devices()[:1])

    def run(**change):
        settings = default_settings(change)
        program = pipeline.compile(settings, batch_size=1)
        (sample,) = program([settings])
        assert sample.fault is None
        return program, sample

    return run


def column_jumps(spectrogram):
    """Returns how much each column differs from the one before it, the first from the last."""
    return np.abs(spectrogram - np.roll(spectrogram, 1, axis=1)).mean(axis=0)


@pytest.fixture(scope="module")
def long_loop(generate):
    """Generates a loop that is four times as long as what the models were trained on."""
    return generate(width=2048, wrap=True, num_steps=5)[1]


def assert_no_seams(sample, columns, wrap):
    starts = np.array(Windows.cover(columns, 64, wrap).starts)
    borders = 8 * np.unique(np.concatenate([starts, starts + 64]) % columns)
    borders = borders if wrap else borders[1:]
    # The spectrogram as it is seen, and as it is heard: that of the audio.
    for jumps in (column_jumps(sample.spectrogram), column_jumps(items.to_spectrogram(sample.audio[None])[0])):
        assert jumps[borders].mean() < 1.5 * jumps.mean() and jumps[borders].max() < np.quantile(jumps, 0.999)


@pytest.mark.slow
def test_a_loop_four_times_as_long_has_no_seams(long_loop):
    assert long_loop.spectrogram.shape == (128, 2048) and len(long_loop.audio) == 2048 * 160
    assert long_loop.spectrogram.std() > 0.1
    assert_no_seams(long_loop, 256, wrap=True)


@pytest.mark.slow
def test_a_canvas_twice_as_long_has_no_seams(generate):
    assert_no_seams(generate(width=1024, num_steps=5)[1], 128, wrap=False)


@pytest.mark.slow
def test_the_end_of_a_loop_leads_into_its_beginning(long_loop):
    jumps = column_jumps(long_loop.spectrogram)
    assert jumps[0] < 1.5 * jumps.mean()
    rolled = np.roll(long_loop.audio, 16000)  # the joint a second from the beginning
    heard = column_jumps(items.to_spectrogram(rolled[None])[0])
    assert heard[98:103].max() < np.quantile(heard, 0.99)
    steps = np.abs(np.diff(rolled))
    assert steps[15999] < np.quantile(steps, 0.99)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Writes a file with birds in the left channel only, at another sampling rate."""
    waveform = items.make_waveforms("held_out", [items.SOUNDS.index("birds")])[0]
    path = tmp_path_factory.mktemp("sound") / "birds.flac"
    higher = scipy.signal.resample_poly(waveform, 3, 1)
    soundfile.write(path, np.stack([higher, 0 * higher], axis=1), 48000)
    return path


def test_the_kept_part_of_an_audio_file_is_unchanged(generate, sound):
    program, sample = generate(init_audio=str(sound), keep="0-1.28s, 0-200Hz", num_steps=6)
    waveform = sounds.read_audio(sound, 16000)
    source = np.asarray(items.to_spectrogram(waveform[None])[0])
    latent = decoding.encode_image(program.components.vae, np.repeat(source[None, ..., None], 3, -1))
    through_vae = np.asarray(decoding.decode_latents(program.components.vae, latent))[0].mean(-1)
    # The first rows are high frequencies; apart from the first seconds only those below 200 Hz are kept.
    error, vae_error = (np.abs(a - source)[:96].mean(axis=0) for a in (sample.spectrogram, through_vae))
    kept = init_latent.keep_mask([(0.0, 1.28, "s"), (0.0, 200.0, "Hz")], program.mel, 128, 512, 8)[..., 0]
    assert kept[:, :16].all() and kept[-1].all() and not kept[:12, 16:].any()
    encoded = init_latent.from_audio(str(sound), program.components.vae, program.mel, 512)
    np.testing.assert_allclose(sample.latents[kept], encoded[kept], atol=1e-6)
    np.testing.assert_allclose(encoded, latent[0], atol=1e-5)  # of the same sound
    # Apart from the last cells, which the decoder blends with new ones, columns differ only as the VAE makes them.
    assert error[:112].mean() < 1.1 * vae_error[:112].mean() + 1 / 255
    assert error[:128].mean() < 2 * vae_error[:128].mean() and error[136:].mean() > 5 * vae_error[136:].mean()


def test_little_strength_stays_near_an_image_and_what_is_kept_stays_nearer(generate, tmp_path):
    picture = items.make_pictures("held_out", 8)[items.SUBJECTS.index("boat")]
    Image.fromarray(picture).save(tmp_path / "a.png")
    _, sample = generate(init_image=str(tmp_path / "a.png"), strength=0.2, keep="0-1.28s")
    error = np.abs(sample.spectrogram - picture / 255).mean(axis=0)
    assert 0.03 < error[136:].mean() < 0.08 and error[:112].mean() < 0.5 * error[136:].mean()


@pytest.mark.slow  # tests/pipeline/test_program.py has a fast one with small models
def test_half_precision_is_close_to_float32(generate):
    """The schedule, guidance, solver, statistics of norms, attention scores and the text encoder's attention are in
    float32 in any case; no other part needs to be."""
    change = dict(num_steps=8, solver="ddim", width=128)
    _, exact = generate(**change)
    for dtype in ("bfloat16", "float16"):
        _, rounded = generate(**change, dtype=dtype)
        assert items.psnr(rounded.image.mean(-1)[None], exact.image.mean(-1)[None]) >= 30
        assert items.psnr(rounded.spectrogram[None], exact.spectrogram[None]) >= 30
