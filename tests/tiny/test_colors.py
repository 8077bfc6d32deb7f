"""The program's pictures in colour, and what the small model of pixels is trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from its_jax.diffusion import ddpm
from its_jax.errors import UserError
from its_jax.pipeline import prompts
from its_jax.tiny.data import colors, items, pictures
from its_jax.tiny.training import color, pixel_folder


@pytest.mark.parametrize("subject", items.SUBJECTS)
def test_a_picture_has_its_grey_and_the_usual_colours(subject):
    for seed in range(3):
        grey, tints = colors.draw(subject, np.random.default_rng(seed))
        np.testing.assert_array_equal(grey, pictures.draw(subject, np.random.default_rng(seed)))
        picture = colors.color_share(grey, tints)
        assert picture.min() >= 0 and picture.max() <= 1
        np.testing.assert_allclose(picture.mean(axis=-1), grey, atol=1e-5)
        assert colors.hue(picture) in colors.usual(subject)


def test_hues_are_told_apart():
    grey = np.full((4, 4), 0.4)
    for name, hue in {"red": "red", "brown": "orange", "sand": "orange", "blue": "blue", "grey": "grey"}.items():
        assert colors.hue(colors.color_share(grey, np.tile(np.float32(colors.COLORS[name]) / 255, (4, 4, 1)))) == hue
    assert colors.usual("train") == {"red", "green", "blue"} and colors.usual("elephant") == {"grey"}


def test_an_unknown_subject_is_refused():
    with pytest.raises(UserError, match="unknown subject 'cat': choose one of castle"):
        pictures.draw_with_tints("cat", np.random.default_rng(0), {})


def test_every_caption_is_made_of_whole_words():
    tokenizer = pixel_folder.tokenizer()
    rng = np.random.default_rng(0)
    words = {f"▁{word}" for word in pixel_folder.vocabulary()}
    for caption in [colors.caption(name, rng) for name in items.SUBJECTS for _ in range(20)]:
        assert set(tokenizer.tokenize(caption)) <= words
    (ids,) = prompts.tokenize_for_pixels(tokenizer, ["A Zebra "])
    assert len(ids) == 77 and tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a zebra"


@pytest.fixture(scope="module")
def batch():
    made_of = color.drawn("train", 12)
    others = items.make_spectrograms("train", 12)
    rng = np.random.default_rng(0)
    return color.batch(rng, made_of, others, pixel_folder.tokenizer(), 4, 32, disturbed=0.5, dropout=0.5)


def test_batches_are_pictures_in_colour_and_captions(batch):
    assert batch["x0"].shape == (4, 32, 32, 3) and np.abs(batch["x0"]).max() <= 1
    assert np.ptp(batch["x0"], axis=-1).max() > 0.2 and batch["tokens"].shape == (4, 77)


def test_the_bound_is_least_where_the_variance_is_right(batch):
    """A model whose noise is off by as much everywhere: the best variance lies above the least one."""
    rows = ddpm.ddpm_table(color.schedule(), 1000)
    eps = {}

    class Model:
        text_encoder = None

        def unet(self, x, t, text):
            return jnp.concatenate([eps["found"] + eps["off"], jnp.full_like(x, eps["v"])], axis=-1)

    def bound(off, v):
        key = jax.random.key(0)
        eps.update(found=jax.random.normal(key, batch["x0"].shape), off=off, v=v)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prompts, "encode_tokens_for_pixels", lambda *_: None)
            error, found, _ = color.errors(Model(), rows, jnp.array([300, 600, 900, 999]), batch, key)
        np.testing.assert_allclose(error, off**2, rtol=1e-4)
        return np.asarray(found)

    np.testing.assert_allclose(bound(0.0, -1.0), 0, atol=1e-6)  # both right: the true posterior of the step
    assert (bound(0.0, 1.0)[:3] > bound(0.0, -1.0)[:3]).all()
    assert (bound(3.0, -1.0)[:3] > bound(3.0, 1.0)[:3]).all()
    assert bound(3.0, 1.0)[3] == 0  # the last step draws nothing


@pytest.mark.usefixtures("quick_programs")
def test_all_of_it_is_trained(batch):
    graph, params = nnx.split(pixel_folder.text_and_unet())
    # The last layer begins at random here, as after a step.
    rows = ddpm.ddpm_table(color.schedule(), 1000)

    @jax.jit
    def gradient(params, batch):
        def loss(params):
            error, bound, _ = color.errors(nnx.merge(graph, params), rows, jnp.array([0, 300, 600, 900]), batch,
                                              jax.random.key(0))  # fmt: skip
            return error.mean() + bound.mean()

        return jax.grad(loss)(params)

    for path, leaf in nnx.to_flat_state(gradient(params, batch)):
        assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path
