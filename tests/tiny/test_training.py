"""The embedded models: their tokenizer, the training loop, and the export that diffusers can open."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from its_jax.audio.mel import image_to_mel
from its_jax.storage.files import write_json
from its_jax.tiny import judges, modules, recipe
from its_jax.tiny.data import items, pictures, sounds
from its_jax.tiny.training import dual_encoder_folder, export, loop, pixel_folder, vocoder_loss


@pytest.mark.parametrize("kind", recipe.KINDS)
def test_every_caption_is_made_of_whole_words(kind, tmp_path):
    from transformers import CLIPTokenizer

    words = recipe.vocabulary(kind)
    size = recipe.write_tokenizer(tmp_path, words)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words)
    assert len(tokenizer.tokenize("xylophone")) > 1
    source, classes = (pictures, items.SUBJECTS) if kind == "image" else (sounds, items.SOUNDS)
    rng = np.random.default_rng(0)
    for caption in [source.caption(name, rng) for name in classes for _ in range(20)]:
        pieces = tokenizer.tokenize(caption)
        assert len(pieces) <= recipe.TEXT_LENGTH - 2
        assert {piece.removesuffix("</w>") for piece in pieces} <= set(words)


def test_splits_never_meet():
    draws = {split: items.make_pictures(split, 2) for split in items.SPLITS}
    assert all(not np.array_equal(draws["train"], draws[split]) for split in items.SPLITS[1:])
    np.testing.assert_array_equal(draws["train"], items.make_pictures("train", 2))


def test_spectrograms_do_not_depend_on_how_they_are_batched():
    np.testing.assert_array_equal(
        items.make_spectrograms("train", 5, block=2), items.make_spectrograms("train", 5, block=5)
    )


def test_a_resumed_training_has_the_bits_of_an_unbroken_one(tmp_path, monkeypatch):
    stage = recipe.Stage([(30, 1e-2)], batch=4)
    params = {"w": jnp.ones(3)}

    def loss(params, batch, key):
        return jnp.mean((batch @ params["w"] - 1.0) ** 2)

    def batches(step):
        return np.random.default_rng(step).standard_normal((stage.batch, 3), dtype=np.float32)

    class Killed(Exception):
        pass

    def killed_at_17(step):
        if step == 17:
            raise Killed
        return batches(step)

    whole, _ = loop.fit(loss, params, batches, stage, tmp_path / "whole")
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    with pytest.raises(Killed):
        loop.fit(loss, params, killed_at_17, stage, tmp_path / "broken")
    seen = []
    resumed, _ = loop.fit(loss, params, lambda step: (seen.append(step), batches(step))[1], stage, tmp_path / "broken")
    assert seen == list(range(17, 30))
    np.testing.assert_array_equal(whole["w"], resumed["w"])
    again, _ = loop.fit(loss, params, lambda step: pytest.fail("finished stages are only restored"), stage,
                       tmp_path / "broken")  # fmt: skip
    np.testing.assert_array_equal(whole["w"], again["w"])


def test_a_stage_restarts_its_rate_at_each_cycle():
    stage = recipe.Stage([(300, 1.0), (100, 0.5)], batch=1)
    assert stage.steps == 400
    assert [stage.progress(step) for step in (0, 150, 300, 375)] == [0, 0.5, 0, 0.75]
    rate = stage.learning_rate()
    np.testing.assert_allclose([rate(step) for step in (0, 30, 300, 310)], [0, 1, 0, 0.5], atol=1e-6)
    assert rate(299) < 1e-3 and rate(399) < 1e-3


def test_a_shortened_cycle_begins_as_the_longer_one():
    plan, cut = recipe.Stage([(400, 1.0)], batch=1), recipe.Stage([(300, 1.0)], batch=1)
    stage = recipe.Stage([(300, 1.0)], batch=1, shortened=(200, 400))
    rate = stage.learning_rate()
    assert [rate(step) for step in (0, 40, 199)] == [plan.learning_rate()(step) for step in (0, 40, 199)]
    assert [rate(step) for step in (200, 299)] == [cut.learning_rate()(step) for step in (200, 299)]


def test_rates_slow_a_parameter_down(tmp_path):
    stage = recipe.Stage([(3, 0.1)], batch=1)
    params, rates = {"a": jnp.zeros(()), "b": jnp.zeros(())}, {"a": 1.0, "b": 0.0}
    result, _ = loop.fit(lambda p, b, k: (p["a"] + p["b"] - 1) ** 2, params, lambda step: 0.0, stage, tmp_path, rates)
    assert result["a"] > 0 and result["b"] == 0


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    stage = recipe.Stage([(5, 1e-2)], batch=1)
    with pytest.raises(FloatingPointError, match="not finite"):
        loop.fit(lambda p, b, k: jnp.sum(p) * jnp.nan, jnp.ones(2), lambda step: 0.0, stage, tmp_path / "bad")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Untrained models through the production export."""
    workdir = tmp_path_factory.mktemp("tiny")
    jax.config.update("jax_disable_most_optimizations", True)  # each is initialised once only
    made = {"vae": modules.vae(), "vocoder": modules.vocoder()}
    made |= {kind: modules.text_and_unet(kind) for kind in recipe.KINDS}
    made |= {f"judge_{kind}": modules.judge() for kind in ("picture", "sound")}
    made |= {kind: modules.embedder(kind) for kind in dual_encoder_folder.KINDS} | {
        "color": pixel_folder.text_and_unet()
    }
    jax.config.update("jax_disable_most_optimizations", False)
    for name, module in made.items():
        loop.save_result(workdir / name, nnx.state(module))
        write_json(workdir / f"{name}.json", {"latent_std": 2.0})
    export.export(workdir)
    return workdir / "export", made


def test_diffusers_and_transformers_open_the_export(exported, highest_precision):
    import diffusers
    import torch
    import transformers

    folder, made = exported
    rng = np.random.default_rng(0)
    x, text = rng.standard_normal((1, 16, 16, 4), np.float32), rng.standard_normal((1, 16, 96), np.float32)
    ids = rng.integers(0, 600, (1, 16))

    def channels_first(a):
        return torch.tensor(a.transpose(0, 3, 1, 2))

    with torch.no_grad():
        unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "image" / "unet").float()
        vae = diffusers.AutoencoderKL.from_pretrained(folder / "image" / "vae").float()
        encoder = transformers.CLIPTextModel.from_pretrained(folder / "image" / "text_encoder").float()
        theirs = (
            unet(channels_first(x), torch.tensor([7]), torch.tensor(text)).sample.permute(0, 2, 3, 1),
            vae.decode(channels_first(x)).sample.permute(0, 2, 3, 1),
            encoder(torch.tensor(ids)).last_hidden_state,
        )
    assert vae.config.scaling_factor == 0.5
    models = made["image"]
    ours = models.unet(x, np.array([7]), text), made["vae"].decode(x), models.text_encoder(ids)
    for a, b in zip(ours, theirs, strict=True):
        # The export is float16: 11 bits for each weight.
        np.testing.assert_allclose(a, b, atol=5e-3 * float(np.abs(b).max()))


def test_the_export_loads_as_a_model(exported, tmp_path, monkeypatch):
    from its_jax import pretrained

    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path))
    folder, _ = exported
    image = pretrained.load_model(str(folder / "image"), components=("text_encoder", "unet", "vae"), dtype=jnp.float32)
    audio = pretrained.load_model(str(folder / "audio"), dtype=jnp.float32, share=[image])
    assert image.vae is audio.vae
    assert image.schedule == audio.schedule
    assert image.vocabulary == frozenset(recipe.vocabulary("image"))
    assert audio.vocoder.config.num_mels == recipe.HEIGHT


def test_the_export_holds_the_judges(exported):
    folder, made = exported
    x = items.make_pictures("train", 2) / np.float32(255)
    judge = judges.load("picture", folder)
    np.testing.assert_allclose(judge(x), made["judge_picture"](x), atol=5e-3)


def test_judges_keep_their_input_in_range_when_it_is_disturbed():
    rng = np.random.default_rng(0)
    item, other = items.make_pictures("train", 1)[0], items.make_spectrograms("train", 1)[0]
    for _ in range(20):
        x = judges.disturbed(rng, item, other)
        assert x.shape == item.shape and x.min() >= 0 and x.max() <= 1


def test_the_vocoder_begins_as_a_bank_of_oscillators():
    """Untrained, it has nearly the spectrogram that it is given, loud pictures included."""
    spectrograms = np.concatenate([items.make_pictures("train", 2), items.make_spectrograms("train", 2)])
    spectrograms = spectrograms / np.float32(255)
    waveform = modules.vocoder()(image_to_mel(spectrograms, recipe.MEL))
    assert waveform.shape == (4, recipe.NUM_SAMPLES)
    assert np.abs(items.to_spectrogram(waveform) - spectrograms).mean() < 0.08


def test_a_centred_vocoder_is_the_same_vocoder():
    graph, params = nnx.split(modules.vocoder())
    log_mels = image_to_mel(items.make_pictures("train", 1)[:, :, :64] / np.float32(255), recipe.MEL)
    centred = vocoder_loss.centred(params, 1)
    black = jnp.full((1, 7, recipe.HEIGHT), recipe.MEL.log_min)
    first = nnx.merge(graph, params).conv_pre(black)[0, 3]
    np.testing.assert_allclose(first, centred["conv_pre"]["bias"][...], atol=1e-4)  # black has become its zero
    back = vocoder_loss.centred(centred, -1)
    np.testing.assert_allclose(nnx.merge(graph, back)(log_mels), nnx.merge(graph, params)(log_mels), atol=1e-5)


def test_silence_is_as_good_as_black_to_the_vocoders_loss():
    black = jnp.full((1, 8, recipe.HEIGHT), recipe.MEL.log_min)
    silence = jnp.zeros((1, 8 * recipe.MEL.hop_length))
    assert (vocoder_loss.floored_log_mel(silence, black) == black).all()
    # Where there should be sound, it must be told how far it is from it.
    gradient = jax.grad(lambda x: vocoder_loss.floored_log_mel(silence + x, black + 1).sum())(1e-6)
    assert gradient != 0


def test_a_judge_learns(tmp_path, monkeypatch):
    """In a few steps, on few items: far above chance."""
    monkeypatch.setattr(judges, "TRAIN_ITEMS", 24)
    monkeypatch.setattr(judges, "HELD_OUT_ITEMS", 24)
    stage = recipe.Stage([(80, 2e-3)], batch=12, ema=0.99)
    monkeypatch.setitem(recipe.STAGES, "judge", stage)
    _, figures, _ = judges.train("sound", tmp_path)
    assert figures["held_out"] >= 0.5, figures
