"""The embedded CLIP's training: windows of pictures, disturbed as fused samples are, and their captions."""

import numpy as np
from flax import nnx

from its_jax.pipeline.prompts import tokenize
from its_jax.tiny import judges, modules, recipe
from its_jax.tiny.data import items as data_items
from its_jax.tiny.data import pictures
from its_jax.tiny.training import contrastive, dual_encoder_folder
from its_jax.tiny.training.loop import fit

TRAIN_ITEMS, HELD_OUT_ITEMS = 1800, 240
_CROP = 2 * recipe.HEIGHT  # columns that are disturbed at once
_WINDOWS = 2  # that are taken of them


def train(workdir):
    """Returns the averaged parameters, the held-out figures and the seconds it took."""
    stage, features, tokenizer = (
        recipe.STAGES["clip"],
        dual_encoder_folder.features("clip"),
        dual_encoder_folder.tokenizer("clip"),
    )
    drawn = data_items.make_pictures("contrast_train", TRAIN_ITEMS)
    others = data_items.make_spectrograms("contrast_train", TRAIN_ITEMS)

    def batches(step):
        rng = data_items.generator("clip", "contrast_train", step)
        chosen = contrastive.rounds(rng, TRAIN_ITEMS, stage.batch // _WINDOWS)
        crops = [judges.disturbed(rng, _crop(rng, drawn[i]), _crop(rng, rng.choice(others))) for i in chosen]
        windows = [_crop(rng, crop, recipe.HEIGHT) for _ in range(_WINDOWS) for crop in crops]
        captions = [pictures.caption(data_items.SUBJECTS[i % 12], rng) for _ in range(_WINDOWS) for i in chosen]
        return {"x": prepared(features, windows), "tokens": tokenize(tokenizer, captions)}

    graph, params = nnx.split(modules.embedder("clip"))
    params, seconds = fit(
        lambda params, batch, key: loss(nnx.merge(graph, params), batch), params, batches, stage, workdir / "clip"
    )
    return params, _held_out(nnx.merge(graph, params)), seconds


def loss(model, batch):
    """Of a batch of pictures "x" and tokens of their captions, in rounds."""
    items, texts = model.embed_picture(batch["x"]), model.embed_text(batch["tokens"])
    return contrastive.info_nce(items, texts, model.logit_scale[...], model.logit_scale[...])


def _crop(rng, canvas, width=_CROP):
    start = rng.integers(canvas.shape[1] - width + 1)
    return canvas[:, start : start + width]


def prepared(features, windows):
    """Grey windows `[n, h, h]` in [0, 1] -> what CLIP takes, `[n, image_size, image_size, 3]`."""
    return np.stack([features(np.repeat(data_items.to_bytes(window)[..., None], 3, axis=-1)) for window in windows])


def embed_canvases(model, canvases):
    """Grey canvases `[n, 128, w]` in [0, 1], n a multiple of 12 -> `[n, d]`, the mean of their windows' embeddings.

    Windows are as wide as high, and an eighth of that apart.
    """
    features, height = dual_encoder_folder.features("clip"), canvases.shape[1]
    starts = range(0, canvases.shape[2] - height + 1, height // 8)
    x = np.concatenate([prepared(features, canvases[:, :, start : start + height]) for start in starts])
    embeddings = contrastive.embedded(lambda model, x: model.embed_picture(x), model, x)
    return embeddings.reshape(len(starts), len(canvases), -1).mean(axis=0)


def _held_out(model):
    """Retrieval among clean and among disturbed pictures."""
    clean, others = (
        make("contrast_held_out", HELD_OUT_ITEMS) for make in (data_items.make_pictures, data_items.make_spectrograms)
    )
    rng = data_items.generator("clip", "contrast_held_out", 0)
    hard = np.stack([judges.disturbed(rng, x, rng.choice(others)) for x in clean])
    texts = contrastive.texts_of_all(
        model, dual_encoder_folder.tokenizer("clip"), pictures, data_items.SUBJECTS, HELD_OUT_ITEMS
    )
    return {
        "held_out": contrastive.retrieval(embed_canvases(model, clean / np.float32(255)), texts),
        "held_out_disturbed": contrastive.retrieval(embed_canvases(model, hard), texts),
    }
