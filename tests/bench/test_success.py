"""The steps that `bench.success` tries in place of the plain average."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import success
from bench import success_forms as forms
from its_jax.diffusion import denoise
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import solver_table
from its_jax.diffusion.term_schedule import term_weights
from its_jax.tiny import judges, recipe
from its_jax.tiny.data import items, pictures, sounds
from tests.helpers.sample_settings import default_settings
from tests.helpers.torch_twins import normal

SHAPE = 3, 2, 4, 4  # b h w c
SCHEDULE = NoiseSchedule(1000, 0.00085, 0.012, "scaled_linear")


def model(gain, x, t, text):
    return gain * jnp.tanh(x) + text + t[:, None, None, None] / 1000


def setting(steps=6):
    models = [jax.tree_util.Partial(model, gain) for gain in (0.5, -0.3)]
    weights, active = term_weights([[1, 2, 0.6]] * 2, [[2] * 3, [0] * 3], steps, SCHEDULE)
    scales = np.full((3, 1000), 4, np.float32)
    terms = [denoise.Term(normal((3, 2, *SHAPE[1:]), i), scales, w) for i, w in enumerate(weights)]
    rows = solver_table(SCHEDULE, steps, "dpmpp_2m")
    return models, terms, rows, active, denoise.initial_state(normal(SHAPE)), np.int32(0), np.int32(steps), None


def parts():
    n, d = normal((2, *SHAPE), 1), normal((2, *SHAPE), 2)
    w, s = np.float32([[0.6, 0.5, 1], [0.4, 0.5, 0]]), np.full((2, 3), 4, np.float32)
    return n, d, w, s


def norm(a):
    return np.sqrt((np.asarray(a) ** 2).sum(axis=(-3, -2, -1)))


def test_the_plain_form_is_the_samplers():
    inputs = setting()
    found, expected = forms.fusing(forms.plain)(*inputs), denoise.denoise(*inputs)
    np.testing.assert_allclose(found.x, expected.x, rtol=0, atol=1e-4)


def test_forms_that_change_nothing_are_the_plain_one():
    expected = forms.plain(*parts())
    for form in (forms.balanced, forms.restored, forms.local):
        np.testing.assert_allclose(form(0, *parts()), expected, rtol=1e-5, atol=1e-5)
    same = parts()
    same = same[0], np.stack([same[1][0]] * 2), *same[2:]
    np.testing.assert_allclose(forms.agreeing(*same), forms.plain(*same), rtol=1e-5, atol=1e-5)


def test_norms_are_as_they_say():
    n, d, w, s = parts()
    total = forms.restored(1, n, d, w, s)
    size = (w * norm(n + s[..., None, None, None] * d)).sum(axis=0)
    np.testing.assert_allclose(norm(total), size, rtol=1e-5)
    d = d * np.float32([1, 3])[:, None, None, None, None]
    found = forms.balanced(1, np.zeros_like(n), d, w, s)
    mean = (w * norm(d)).sum(axis=0)
    expected = sum(
        of_w[:, None, None, None] * of_d / norm(of_d)[:, None, None, None] for of_w, of_d in zip(w, d, strict=True)
    )
    np.testing.assert_allclose(found, 4 * mean[:, None, None, None] * expected, rtol=1e-4, atol=1e-4)


def test_directions_that_oppose_each_other_are_freed_of_that():
    n, d, w, s = parts()
    d[1] = 0.5 * d[1] - d[0]
    one = forms.agreeing(np.zeros_like(n), d, np.float32([[1] * 3, [0] * 3]), s)
    assert ((one * d[1]).sum(axis=(-3, -2, -1)) > -1e-3).all() and ((d[0] * d[1]).sum(axis=(-3, -2, -1)) < 0).all()


def test_where_one_model_wants_nothing_the_other_leads():
    n, d, w, s = parts()
    d[0, :, 0] = 0
    found = forms.local(1, n, d, np.full_like(w, 0.5), s)
    np.testing.assert_allclose(found[:, 0], (n[1] + 4 * d[1])[:, 0], rtol=1e-5)


@pytest.mark.parametrize(
    "correct", [functools.partial(forms.langevin, 0.3, 1), functools.partial(forms.hamiltonian, 0.2, 3)]
)
def test_corrections_leave_noise_noise(correct):
    """A standard normal latent, of which all is noise, stays one: eps of it is x / sigma."""
    x = normal((64, 8, 8, 4))
    after = correct(0.7 * x, 5, 0.7, lambda x: x / 0.7)
    assert abs(float(after.std()) - 0.7) < 0.03 and abs(float(after.mean())) < 0.03
    assert 0.3 < np.corrcoef(after.ravel(), x.ravel())[0, 1] < 0.99


def test_corrections_come_before_steps_of_their_stretch():
    inputs, seen = setting(), []

    def correct(x, k, sigma, eps_of):
        jax.debug.callback(lambda k: seen.append(int(k) // 16), k)
        return x

    program = forms.corrected(correct, 2, 0, 0.5)
    found = jax.jit(program)(*inputs)
    jax.effects_barrier()
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(found.x, denoise.denoise(*inputs).x, rtol=1e-5, atol=1e-5)


def test_no_variant_costs_more_than_the_plain_one():
    """In steps: of the two models 48 evaluations of a pair of prompts in all."""
    for name, variant in success.VARIANTS.items():
        n = variant.settings.get("num_steps", 25)
        first = variant.settings.get("image.start_step", 2)
        assert success.cost(variant, 2 * n - first) <= 48 * 1.05, name


def test_judges_like_the_candidate_that_shows_and_sounds_what_was_asked_for(monkeypatch):
    shipped = {kind: judges.load(kind) for kind in ("picture", "sound")}
    monkeypatch.setattr(success, "second_judges", lambda workdir: shipped)
    prompts = {"image.prompt": "a painting of dogs, grayscale", "audio.prompt": "church bells ringing"}
    settings = default_settings(prompts)

    def liked(subject, sound):
        grey = pictures.draw(subject, items.generator("picture", "held_out", 1)).clip(0, 1).astype(np.float32)
        waveform = sounds.synthesize(sound, items.generator("sound", "held_out", 1))
        return success._by_judges(None, [settings], grey[None], waveform[None], recipe.MEL)[0]

    assert liked("dog", "bell") > max(liked("castle", "bell"), liked("dog", "frog")) + 1
