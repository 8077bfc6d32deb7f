"""What the method is compared with: one model alone, models in turn, one imprinted on the other."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch

from its_jax import sample
from its_jax.diffusion.term_schedule import alternate
from its_jax.diffusion.torch_noise import torch_noise
from its_jax.diffusion.views import VIEWS
from its_jax.generate import batches
from its_jax.pipeline import decoding
from its_jax.pipeline.methods import imprint, subclasses
from its_jax.pipeline.sampler import Sampler
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import read_settings
from its_jax.settings.steps import single_term, total_steps
from tests.helpers.sample_settings import replace_in_term

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def expand(small):
    return lambda *change, **more: read_settings(small(*change, **more).to_dict())[0]


@pytest.fixture(scope="module")
def sampler(expand):
    return Sampler(expand()[0], pending=8)


def owners(starts, turns, steps, first=0):
    """Whose turn it is at each step, of one sample."""
    weights = np.zeros((len(starts), 1, steps), np.float32)
    for of_term, start in zip(weights, starts, strict=True):
        of_term[:, start:] = 0.3
    table = alternate(weights, np.array(turns)[:, None], first)[:, 0, first:]
    assert table.dtype == np.float32 and set(table.sum(axis=0)) == {1}
    return "".join("iau"[i] for i in table.argmax(axis=0))


def test_terms_take_turns():
    assert owners([0, 0], [1, 1], 6) == "iaiaia"
    assert owners([0, 0], [2, 3], 12) == "iiaaaiiaaaii"
    assert owners([3, 0], [1, 1], 8) == "aaaaiaia"  # before its start the other has its steps
    assert owners([0, 4], [1, 2], 7) == "iiiiaai"
    assert owners([0, 0], [1, 1], 6, first=1) == "iaiai"
    assert owners([0, 3, 0], [1, 1, 1], 7) == "iuuiaui"  # the next takes what one leaves
    weights = np.array([[[0.3, 0.3, 0.0]] * 2, [[0.7, 0.7, 0.0]] * 2], np.float32)
    table = alternate(weights, [[1, 2], [1, 1]])
    np.testing.assert_array_equal(table[0], [[1, 0, 0], [1, 1, 0]])  # nobody's beyond the end


def test_methods_that_differ_in_weights_alone_share_programs_but_no_batch(expand):
    requested = {method: expand(method=method, num_samples=1)[0] for method in ("fused", "image_only", "alternating")}
    requested |= {"in twos": expand({"method": "alternating", "image.turn": 2}, num_samples=1)[0]}
    (group,) = batches.program_groups(requested)
    assert len(batches.batch_representatives(group)) == 4
    assert len({sample_id(settings) for settings in requested.values()}) == 4


def evaluated(sampler, settings):
    *_, chosen = sampler.tables([settings])
    return chosen[:, : settings.num_steps].astype(bool).astype(int).tolist()


def test_one_model_alone_is_asked_at_every_step(expand, sampler, monkeypatch):
    """Whatever the settings say of its own start and of the other's; and the other's is not evaluated."""
    (image,) = expand(method="image_only", num_samples=1)
    (audio,) = expand({"method": "audio_only", "audio.weight": 0.0, "audio.start_step": 3}, num_samples=1)
    assert evaluated(sampler, image) == [[1] * 4, [0] * 4]
    assert evaluated(sampler, audio) == [[0] * 4, [1] * 4]
    (alternating,) = expand(method="alternating", num_samples=1)
    assert evaluated(sampler, alternating) == [[0, 0, 1, 0], [1, 1, 0, 1]]
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    results = {settings.method: sampler([settings])[0] for settings in (image, audio, alternating)}
    assert not compilations
    by_weight = expand({"audio.weight": 0.0, "image.weight": 1.0, "image.start_step": 0}, num_samples=1)
    np.testing.assert_array_equal(results["image_only"].latents, sampler(by_weight)[0].latents)
    by_weight = expand({"image.weight": 0.0, "audio.weight": 1.0}, num_samples=1)
    np.testing.assert_array_equal(results["audio_only"].latents, sampler(by_weight)[0].latents)
    for result in results.values():
        assert result.fault is None and result.pictures["image"].shape == (12, 48, 3)


def test_what_is_not_asked_is_not_warned_of(expand, sampler, caplog):
    change = {"image.prompt": "a " * 100, "image.start_step": 4, "method": "audio_only"}
    sampler.warn(expand(change, num_samples=1))
    assert not caplog.messages


def test_turns_are_steps_of_one_model_each(expand, sampler):
    """Two steps, one of each: a run of the other model goes on from where the first one leaves off."""
    steps = {"num_samples": 1, "num_steps": 2, "image.start_step": 0}
    (alternating,) = sampler(expand(steps, method="alternating"))
    spans = {"image.stop_step": 1, "audio.start_step": 1, "image.weight": 1.0, "audio.weight": 1.0}
    (one_after_the_other,) = sampler(expand(steps | spans))
    np.testing.assert_array_equal(alternating.latents, one_after_the_other.latents)


# Imprint


def test_an_imprint_is_the_arithmetic_of_the_authors():
    rng = np.random.default_rng(0)
    picture, spectrogram = rng.random((2, 3, 8, 16), np.float32)
    ratio, inverse = np.float32([0.5, 0.25, 1.0]), np.array([True, False, True])
    found = imprint.imprint(picture, spectrogram, ratio, inverse)
    for i in range(3):
        image = torch.from_numpy(picture[i])
        image = 1 - image if inverse[i] else image
        expected = torch.from_numpy(spectrogram[i]) * (1 - ratio[i] * image)
        np.testing.assert_allclose(found[i], expected, atol=1e-7)


@pytest.fixture(scope="module")
def imprinter(expand):
    return subclasses.SAMPLERS["imprint"](expand(IMPRINT)[0], pending=8)


IMPRINT = {"method": "imprint", "num_samples": 2}


def test_an_imprint_is_made_of_what_each_model_makes_alone(expand, sampler, imprinter):
    own = {"noise": "torch", "seed": 5, "num_samples": 1}
    (settings,) = expand(IMPRINT | own | {"mag_ratio": 0.3, "inverse_image": False})
    settings = replace_in_term(settings, "image", num_steps=3)
    done = []
    (made,) = imprinter([settings], done.append)
    assert sum(done) == total_steps(settings) == 7 and made.fault is None
    (picture,) = sampler(expand(own, method="image_only", num_steps=3))
    np.testing.assert_array_equal(made.latents[0], picture.latents)
    noise = torch_noise(5, sampler.latent_shape(settings), 1)
    terms = sampler._terms([settings] * 8)
    alone = [single_term(settings, "audio")] * 8
    noise = sampler._put(np.stack([noise] * 8), sharded=True)
    audio, _ = sampler._denoise_batch(alone, terms, noise, lambda steps: None)
    np.testing.assert_array_equal(made.latents[1], audio[0])
    vaes = sampler.image.vae, sampler.audio.vae
    shown = [decoding.decode_latents(vae, z[None]).mean(-1) for vae, z in zip(vaes, made.latents, strict=True)]
    expected = np.asarray(shown[1] * (1 - 0.3 * shown[0]))[0]
    np.testing.assert_allclose(made.spectrogram, expected, rtol=0, atol=0.51 / 255)
    np.testing.assert_array_equal(made.pictures["image"], np.repeat(made.spectrogram[..., None], 3, -1))
    (inverse,) = imprinter([dataclasses.replace(settings, inverse_image=True, mag_ratio=1.0)])
    np.testing.assert_allclose(inverse.spectrogram, np.asarray(shown[1] * shown[0])[0], rtol=0, atol=0.51 / 255)


def test_noise_of_an_imprint_is_of_its_seed_alone(expand, imprinter):
    one, two = imprinter(expand(IMPRINT))
    (again,) = imprinter(expand(IMPRINT, seed=1, num_samples=1), position=1)
    np.testing.assert_array_equal(again.latents, two.latents)
    picture, spectrogram = imprint.two_noises(np.uint32([0, 1]), (2, 3, 4))
    assert np.abs(picture - spectrogram).min() > 0 and np.abs(one.latents[0] - two.latents[0]).max() > 0.1


def test_an_imprint_is_written_and_made_again(small, imprinter, tmp_path, monkeypatch):
    monkeypatch.setitem(subclasses.SAMPLERS, "imprint", lambda settings, **how: imprinter)
    sample.run(small(IMPRINT, batch_size=8, num_samples=1), tmp_path / "out")
    (made,) = (tmp_path / "out").glob("*/")
    assert sorted(path.name for path in made.iterdir()) == ["audio.wav", "image.png", "sample.json", "spectrogram.png"]
    sample.run_again(made / "audio.wav", tmp_path / "again")
    again = tmp_path / "again" / made.name
    for name in ("image.png", "audio.wav"):
        assert len({(folder / name).read_bytes() for folder in (made, again)}) == 1


@pytest.mark.parametrize(
    ("view", "cutoff", "wrap", "width"),
    [("identity", True, False, 48), ("identity", False, True, 96), ("block_rearrange", False, False, 96)],
)
def test_imprints_of_every_canvas(sampler, view, cutoff, wrap, width):
    rng = np.random.default_rng(0)
    picture, z = rng.normal(size=(2, 2, 6, 48 if wrap or not cutoff else 28, 4)).astype(np.float32)
    vaes, view = (sampler.image.vae, sampler.audio.vae), VIEWS[view]
    numbers = np.ones(2, np.float32), np.array([True, False])
    how = dict(decoders=(0, 1), view=view, cutoff=cutoff, wrap=wrap)
    heard, (seen,) = jax.jit(functools.partial(subclasses._imprinted, **how))(vaes, picture, z, *numbers)
    alone, (other,) = decoding.decode(z, vaes, ((1, VIEWS["identity"]), (0, view)), cutoff=cutoff, wrap=wrap)
    assert heard.shape == alone.shape == (2, 12, width) and seen.shape == other.shape
    (_, (shown,)) = decoding.decode(picture, vaes, ((1, VIEWS["identity"]), (0, view)), cutoff=cutoff, wrap=wrap)
    grey = view.invert(shown.mean(-1, keepdims=True))[..., 0]
    np.testing.assert_allclose(heard[0], (alone * grey)[0], atol=1.1 / 255)
    np.testing.assert_allclose(heard[1], (alone * (1 - grey))[1], atol=1.1 / 255)
    np.testing.assert_array_equal(view.invert(seen)[..., 1], heard)
